// Lets a guest run on whose migration came to nothing: QEMU stops it for the switchover, and does not
// always let it go again. Knows nothing of whether it is meant to run (guest_events.ts).

import { delay } from "../base/deadline.ts";
import { AgentError } from "../base/errors.ts";
import type { QmpClient } from "../qmp/client.ts";
import { isMigrating } from "./ram.ts";

const POLL_MS = 20;

/**
 * Lets a guest run on that a migration of its source has stopped, once that migration has ended; false
 * when nothing of the kind holds it up: it runs, or somebody else has stopped it (`paused`), or it
 * cannot run (`io-error`, `guest-panicked`, ...).
 * @throws AgentError `guest_held` when a migration that goes on holds it
 */
export async function letRunOn(qmp: QmpClient, signal: AbortSignal): Promise<boolean> {
  while (true) {
    const { status } = await qmp.execute("query-status", {}, { signal });
    // QEMU itself goes on from here, or to `postmigrate`, a moment after a migration has failed, and
    // refuses `cont` until then. Only to run on is an event.
    if (status !== "finish-migrate") {
      if (status !== "postmigrate") return false;
      break;
    }
    if (await isMigrating(qmp, signal)) {
      throw new AgentError("guest_held", "Another migration of this guest holds it stopped", {
        hint: "end that one first (query-migrate, migrate_cancel)",
      });
    }
    await delay(POLL_MS, signal);
  }
  await qmp.execute("cont", {}, { signal });
  return true;
}
