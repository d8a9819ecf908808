// The moment at which the guest goes on at the destination. The only place that lets it.

import type { QmpClient } from "../qmp/client.ts";

/**
 * `cont`; gives QEMU's own time of the guest's resume.
 * @throws QmpCommandError when QEMU refuses: the guest has not run. Any other error leaves that open.
 */
export async function resumeGuest(qmp: QmpClient, signal: AbortSignal): Promise<Date> {
  using resumed = qmp.subscribe("RESUME");
  await qmp.execute("cont", {}, { signal });
  const { timestampMs } = await resumed.next(signal);
  return new Date(timestampMs);
}
