// Where a sender that has lost its connection comes back to: its next connections, and what has to be
// ready before one of them is of use.

import { abortable } from "../src/base/deadline.ts";
import { AgentError } from "../src/base/errors.ts";
import { AsyncQueue } from "../src/base/queue.ts";
import type { Peer } from "./peer.ts";

export class WayBack {
  readonly #callers = new AsyncQueue<Peer>();
  #ready: Promise<void> = Promise.resolve();

  /** Nobody is let in before `work` is done; its failure is told to the next who comes. */
  prepare(work: Promise<void>): void {
    this.#ready = work;
    work.catch(() => {}); // told by `next`
  }

  /** The sender is here again. */
  come(peer: Peer): void {
    this.#callers.push(peer);
  }

  /**
   * The next connection of the sender, once everything is ready for it. `reopen` comes last: until the
   * sender is here, its QEMU may connect, and write, by itself.
   */
  async next(reopen: () => Promise<void>, signal: AbortSignal): Promise<Peer> {
    const peer = await this.#callers.take(signal);
    await abortable(this.#ready, signal);
    this.prepare(reopen());
    await abortable(this.#ready, signal);
    return peer!; // this queue is never closed
  }

  /** Waits until nothing is under way, however it ends. */
  async settled(): Promise<void> {
    await this.#ready.catch(() => {}); // told by whoever prepares it
  }
}

/** There is no way back into this migration. */
export function cannotResume(): AgentError {
  const text = "This migration cannot go on after a lost connection";
  return new AgentError("cannot_resume", text, { kind: "refused", side: "destination" });
}
