// What a sender that has lost its connection may still want to know of a migration: what became of the
// guest. Holds the answer back until it is known, and knows when it was heard.
// Specification: docs/protocol.md, "ask".

import { delay } from "../src/base/deadline.ts";
import { AgentError } from "../src/base/errors.ts";
import type { Outcome } from "./outcome.ts";
import type { Peer } from "./peer.ts";

/** A sender that gives up asking at the last moment may be a bit late. */
const LATE_MS = 5000;

export class Inquiry {
  readonly #outcome = Promise.withResolvers<Outcome>();
  readonly #heard = new AbortController();
  #askedForMs = 0;

  /** From now on a handover may be on its way, whose sender asks for so long. */
  expect(askedForMs: number): void {
    this.#askedForMs = askedForMs;
  }

  /** Whether to wait for a sender that may ask and has left its connection as `last` has ended. */
  isOpen(last: Peer): boolean {
    return this.#askedForMs > 0 && !this.isClosed(last);
  }

  /** Whether nobody will ever ask: who says goodbye on its last connection has heard all. */
  isClosed(last: Peer): boolean {
    const reason: unknown = last.lost.reason;
    return this.#heard.signal.aborted ||
      reason instanceof AgentError && reason.code === "peer_went_away";
  }

  /** It is known now; the first word counts. */
  decide(outcome: Outcome): void {
    this.#outcome.resolve(outcome);
  }

  /** The answer, as soon as it is known. */
  get answer(): Promise<Outcome> {
    return this.#outcome.promise;
  }

  /** The sender knows. */
  hear(): void {
    this.#heard.abort();
  }

  /** Until the sender knows, or has certainly stopped asking, or `signal` aborts. */
  async waitUntilHeard(signal: AbortSignal): Promise<void> {
    const ended = AbortSignal.any([signal, this.#heard.signal]);
    await delay(this.#askedForMs + LATE_MS, ended).catch(() => {}); // it has ended in any case
  }
}
