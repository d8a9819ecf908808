// What waits to be written to the connection. Frames go out whole, one at a time, urgent ones first
// and the others in the order in which they came; a stream has at most one data frame here, which
// makes that order a fair turn. Knows nothing of what the frames mean.

import type { AgentError } from "../base/errors.ts";
import { describeError } from "../base/errors.ts";
import { type ByteLink, connectionLost, writeAll } from "./byte_link.ts";

interface Entry extends PromiseWithResolvers<void> {
  readonly bytes: Uint8Array;
}

export interface OutboxEvents {
  /** A frame has been handed to the kernel. */
  onSent(): void;
  /** A write failed; the outbox is to be failed with this. */
  onError(error: AgentError): void;
}

export class Outbox {
  readonly #link: ByteLink;
  readonly #events: OutboxEvents;
  readonly #urgent: Entry[] = [];
  readonly #bulk: Entry[] = [];
  #current: Entry | undefined;
  #running = false;
  #error: AgentError | undefined;

  constructor(link: ByteLink, events: OutboxEvents) {
    this.#link = link;
    this.#events = events;
  }

  /** Urgent frames that wait. */
  get backlog(): number {
    return this.#urgent.length;
  }

  /** Resolves when the kernel has all of `bytes`; they must not be changed before. */
  send(bytes: Uint8Array, urgent: boolean): Promise<void> {
    if (this.#error) return Promise.reject(this.#error);
    return this.#enqueue(bytes, urgent ? this.#urgent : this.#bulk);
  }

  /** Sends an urgent frame that nobody waits for; its failure is the connection's, told there. */
  post(bytes: Uint8Array): void {
    this.send(bytes, true).catch(() => {});
  }

  /**
   * Sends `last` after everything that is queued. Sends that come later fail with `error`.
   */
  seal(error: AgentError, last: Uint8Array): Promise<void> {
    this.#error ??= error;
    return this.#enqueue(last, this.#bulk);
  }

  /**
   * Every send, also the one under way, fails with `error` now; a frame that is partly written is
   * still completed if the connection allows it, then `last` is sent. Its promise may never settle:
   * the connection may be blocked for good.
   */
  fail(error: AgentError, last?: Uint8Array): Promise<void> {
    this.#error ??= error;
    this.#current?.reject(error);
    for (const entry of this.#urgent.splice(0)) entry.reject(error);
    for (const entry of this.#bulk.splice(0)) entry.reject(error);
    return last ? this.#enqueue(last, this.#bulk) : Promise.resolve();
  }

  #enqueue(bytes: Uint8Array, queue: Entry[]): Promise<void> {
    const entry = { bytes, ...Promise.withResolvers<void>() };
    queue.push(entry);
    if (!this.#running) this.#run();
    return entry.promise;
  }

  async #run(): Promise<void> {
    this.#running = true;
    for (;;) {
      const entry = this.#urgent.shift() ?? this.#bulk.shift();
      if (entry === undefined) break;
      this.#current = entry;
      try {
        await writeAll(this.#link, entry.bytes);
      } catch (error) {
        const lost = connectionLost(describeError(error), error);
        this.#events.onError(lost);
        this.fail(lost);
        break;
      }
      this.#current = undefined;
      entry.resolve();
      this.#events.onSent();
    }
    this.#current = undefined;
    this.#running = false;
  }
}
