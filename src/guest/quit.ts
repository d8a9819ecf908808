// The orderly end of a QEMU whose guest has left.

import { AgentError } from "../base/errors.ts";
import { type QmpClient, QmpCommandError } from "../qmp/client.ts";
import { waitForExit } from "./proc.ts";

const EXIT_TIMEOUT_MS = 10_000;

/** `quit`, and the wait for its process's end; `qmp` has ended then. @throws AgentError `qemu_survives` */
export async function quitQemu(
  qmp: QmpClient,
  options: { pid: number; signal: AbortSignal },
): Promise<void> {
  try {
    await qmp.execute("quit", {}, options);
  } catch (error) {
    // QEMU may be gone before its answer is out: that is what was asked for.
    if (error instanceof QmpCommandError || options.signal.aborted) throw error;
  }
  const { pid, signal } = options;
  if (await waitForExit(pid, { timeoutMs: EXIT_TIMEOUT_MS, signal })) return await qmp.close();
  throw new AgentError("qemu_survives", `QEMU (process ${pid}) is still there after 'quit'`);
}
