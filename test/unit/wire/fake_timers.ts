// Time that passes when a test says so.

import type { Timers } from "../../../src/wire/keepalive.ts";
import { settle } from "./memory_link.ts";

export class FakeTimers implements Timers {
  #nowMs = 1000;
  #lastId = 0;
  readonly #due = new Map<number, { atMs: number; callback: () => void }>();

  nowMs(): number {
    return this.#nowMs;
  }

  setTimeout(callback: () => void, ms: number): number {
    this.#due.set(++this.#lastId, { atMs: this.#nowMs + ms, callback });
    return this.#lastId;
  }

  clearTimeout(id: number): void {
    this.#due.delete(id);
  }

  /** Timers that wait. */
  get count(): number {
    return this.#due.size;
  }

  /** Lets time pass, each timer in its turn, and everything that follows from it. */
  async advance(ms: number): Promise<void> {
    const endMs = this.#nowMs + ms;
    await settle();
    for (;;) {
      const next = [...this.#due].sort(([, a], [, b]) => a.atMs - b.atMs)[0];
      if (next === undefined || next[1].atMs > endMs) break;
      this.#due.delete(next[0]);
      this.#nowMs = next[1].atMs;
      next[1].callback();
      await settle();
    }
    this.#nowMs = endMs;
  }
}
