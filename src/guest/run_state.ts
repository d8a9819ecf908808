// Whether the guest is meant to run: as it was when the migration began, and as others have changed
// it since. The stop that the migration itself makes does not count.

import { delay } from "../base/deadline.ts";
import { AgentError } from "../base/errors.ts";
import type { QmpClient } from "../qmp/client.ts";
import type { EventSubscription } from "../qmp/events.ts";
import { isMigrating } from "./ram.ts";

const RESTORE_TIMEOUT_MS = 10_000;
const POLL_MS = 20;

export class RunState {
  readonly #qmp: QmpClient;
  readonly #events: EventSubscription;
  #shouldRun = false;

  constructor(qmp: QmpClient) {
    this.#qmp = qmp;
    this.#events = qmp.subscribe("STOP", "RESUME");
  }

  /**
   * Follows what others do until QEMU ends; `running` is what it said a moment ago.
   * @throws QmpCommandError when QEMU does not say
   */
  async follow(running: boolean): Promise<void> {
    this.#shouldRun = running;
    await this.#follow();
  }

  get shouldRun(): boolean {
    return this.#shouldRun;
  }

  /** Lets the guest run on if it is meant to and does not. For a source that keeps its guest. */
  async restore(): Promise<void> {
    if (!this.#shouldRun) return;
    await letRunOn(this.#qmp, AbortSignal.timeout(RESTORE_TIMEOUT_MS));
  }

  async #follow(): Promise<void> {
    const signal = this.#qmp.ended;
    try {
      while (true) {
        const { event } = await this.#events.next(signal);
        if (event === "RESUME") this.#shouldRun = true;
        else {
          // `finish-migrate` and what follows it are the migration's own stop.
          const { status } = await this.#qmp.execute("query-status", {}, { signal });
          if (status === "paused") this.#shouldRun = false;
        }
      }
    } catch (error) {
      if (!signal.aborted) throw error; // the end of QEMU ends this, and is told elsewhere
    }
  }
}

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
