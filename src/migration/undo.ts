// What to do when it fails: undo steps, registered as soon as their effect may exist, run newest
// first. Knows nothing of what they undo.

import { AgentError, describeError, toAgentError } from "../base/errors.ts";

export interface UndoEntry {
  /** The effect is gone in another way, or is meant to stay. */
  forget(): void;
}

export class UndoLedger {
  #steps: { what: string; undo: () => Promise<void> }[] = [];

  /**
   * @param what the action as it appears in a warning: "remove '/d/a.raw'"
   * @param undo bounded in time by itself; may be called when only a part of the effect exists
   */
  add(what: string, undo: () => Promise<void>): UndoEntry {
    const step = { what, undo };
    this.#steps.push(step);
    return {
      forget: () => {
        this.#steps = this.#steps.filter((other) => other !== step);
      },
    };
  }

  /** From here on nothing is undone any more: the guest has gone over. */
  forgetAll(): void {
    this.#steps = [];
  }

  /** Runs every step, whatever happens to the others; gives what failed, in the order of the steps. */
  async rollback(): Promise<AgentError[]> {
    const failures: AgentError[] = [];
    while (this.#steps.length > 0) {
      const { what, undo } = this.#steps.pop()!;
      try {
        await undo();
      } catch (error) {
        const cause = toAgentError(error);
        failures.push(
          new AgentError("undo_failed", `Cannot ${what}: ${describeError(error)}`, { cause }),
        );
      }
    }
    return failures;
  }
}
