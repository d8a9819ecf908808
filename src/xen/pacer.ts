// Keeps a stream at a rate that may change while it goes on.

import { delay } from "../base/deadline.ts";

/** Delays shorter than this are left to the next chunk: a timer costs more. */
const SHORTEST_MS = 1;

export class Pacer {
  #bytesPerS = 0;
  #sinceMs = 0;
  #bytes = 0;

  /** Bytes per second from now on; 0 for no limit. */
  setRate(bytesPerS: number): void {
    this.#bytesPerS = bytesPerS;
    this.#sinceMs = performance.now();
    this.#bytes = 0;
  }

  /** Waits until `count` more bytes are due. */
  async pace(count: number, signal: AbortSignal): Promise<void> {
    if (this.#bytesPerS <= 0) return;
    this.#bytes += count;
    const waitMs = this.#sinceMs + this.#bytes / this.#bytesPerS * 1000 - performance.now();
    if (waitMs > SHORTEST_MS) await delay(waitMs, signal);
  }
}
