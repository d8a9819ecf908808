// The tiny guest's state through QMP, for the demo.

import { delay } from "../src/base/deadline.ts";
import { AgentError } from "../src/base/errors.ts";
import {
  parseMonitorDump,
  parseStatus,
  STATUS_COMMAND,
  type TinyGuestStatus,
} from "../src/demo_guest/guest.ts";
import type { QmpClient } from "../src/qmp/client.ts";

const POLL_MS = 50;

/** The guest's status block. @throws AgentError when the guest is not up */
export async function readTinyGuest(qmp: QmpClient, signal: AbortSignal): Promise<TinyGuestStatus> {
  const status = await lookAtTinyGuest(qmp, signal);
  if (status) return status;
  throw new AgentError("tiny_guest_down", "The tiny guest has not started");
}

/** Waits until the guest has taken `more` turns from now. Its counter sends no event: look again. */
export async function waitForTurns(
  qmp: QmpClient,
  { more, signal }: { more: number; signal: AbortSignal },
): Promise<TinyGuestStatus> {
  const first = await lookAtTinyGuest(qmp, signal);
  while (true) {
    const status = await lookAtTinyGuest(qmp, signal);
    if (status && status.count >= (first?.count ?? 0) + more) return status;
    await delay(POLL_MS, signal);
  }
}

async function lookAtTinyGuest(
  qmp: QmpClient,
  signal: AbortSignal,
): Promise<TinyGuestStatus | null> {
  const dump = await qmp.execute(
    "human-monitor-command",
    { "command-line": STATUS_COMMAND },
    { signal },
  );
  return parseStatus(parseMonitorDump(dump));
}
