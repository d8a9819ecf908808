// The handover as the receiver sees it: from the journal's `accepted` to a guest that runs, or one that
// certainly never will. The only place that lets the guest run here.
// Specification: src/migration/ownership.ts, docs/safety.md.

import { AgentError, toAgentError } from "../src/base/errors.ts";
import type { Journal } from "../src/migration/journal.ts";
import type { Migration } from "../src/migration/migration.ts";
import { type ArrivingGuest, GuestNotResumed } from "./landing.ts";

/** How long it may take to find out whether the guest runs. */
const LOOK_TIMEOUT_MS = 10_000;

export interface AcceptanceOptions {
  journal: Journal;
  migration: Migration;
  /** Whether the guest writes to disks that the source has too. */
  sharesDisks: boolean;
}

export class Acceptance {
  readonly #guest: ArrivingGuest;
  readonly #options: AcceptanceOptions;
  #state: "preparing" | "accepted" | "running" | "never_ran" | "ended" = "preparing";

  constructor(guest: ArrivingGuest, options: AcceptanceOptions) {
    this.#guest = guest;
    this.#options = options;
  }

  /** Whether the guest may be running here. */
  get mayRun(): boolean {
    return this.#state === "accepted" || this.#state === "running";
  }

  /** For a guest that will not run here: whether it ever did. */
  get outcome(): "never_ran" | "ended" {
    return this.#state === "ended" ? "ended" : "never_ran";
  }

  /**
   * Takes the guest over; when it was resumed, by its host's clock.
   * @throws AgentError `handover_refused` or `handover_ended`: it is gone for certain. After any other
   * error `mayRun` says whether that is open; `settle` finds out
   */
  async accept(run: boolean, signal: AbortSignal): Promise<Date> {
    const { journal, migration } = this.#options;
    await migration.run(
      "journal_accepted",
      () => journal.update({ state: "accepted", phase: "handover", should_run: run }),
    );
    this.#state = "accepted";
    const { ended } = this.#guest;
    let begun = false;
    try {
      const resumedAt = await migration.run("resume", () => {
        begun = true;
        return this.#guest.resume(run, signal);
      });
      this.#running();
      return resumedAt;
    } catch (error) {
      if (error instanceof GuestNotResumed) return await this.#giveBack("never_ran", error.cause);
      if (!begun && ended.aborted) return await this.#giveBack("never_ran", error);
      // A moment of running leaves no trace but on the disks, and those that were copied are thrown away.
      if (ended.aborted && !this.#options.sharesDisks) {
        return await this.#giveBack("ended", error);
      }
      throw error;
    }
  }

  /** An error has left open whether the guest runs: it is this side's, so it shall. */
  async settle(): Promise<"running" | "uncertain"> {
    const { should_run: shouldRun } = this.#options.journal.record;
    try {
      await this.#guest.settle(shouldRun, AbortSignal.timeout(LOOK_TIMEOUT_MS));
    } catch (error) {
      const { code, message } = toAgentError(error);
      this.#options.migration.report({ type: "warning", code, text: message });
      return "uncertain";
    }
    this.#running();
    return "running";
  }

  /** Writes down that the guest runs. Whether this was written makes no difference to what is true. */
  confirm(): Promise<void> {
    return this.#options.journal.update({ state: "running", phase: "end" });
  }

  /** What a handover that comes too late is told. */
  static refusal(outcome: "never_ran" | "ended", cause: AgentError): AgentError {
    return new AgentError(
      outcome === "ended" ? "handover_ended" : "handover_refused",
      `The destination's QEMU ${
        outcome === "ended"
          ? "ended while it took the guest"
          : "did not run the guest and was ended"
      }: ${cause.message}`,
      { kind: cause.kind, side: "destination", cause },
    );
  }

  #running(): void {
    this.#state = "running";
    this.#options.migration.undo.forgetAll();
  }

  /** Makes certain that the guest is gone, and only then says so. */
  async #giveBack(outcome: "never_ran" | "ended", cause: unknown): Promise<never> {
    const undoErrors = await this.#options.migration.undo.rollback();
    if (undoErrors.length > 0) throw undoErrors[0]!;
    await this.#options.journal.update({ state: outcome, remains: [] });
    this.#state = outcome;
    throw Acceptance.refusal(outcome, toAgentError(cause));
  }
}
