// An unbounded queue between one producer and one consumer. Backpressure is not its business:
// whoever fills it from the network bounds what the peer may send (credit).

import { abortable } from "./deadline.ts";

/** Values in order; `take` waits for the next. After `close`/`fail` what is queued can still be taken. */
export class AsyncQueue<T> {
  #items: T[] = [];
  #waiters: PromiseWithResolvers<T | null>[] = [];
  #ended = false;
  #error: Error | undefined;

  get size(): number {
    return this.#items.length;
  }

  /** Adds a value; ignored after the end, since nobody will take it. */
  push(item: T): void {
    if (this.#ended) return;
    const waiter = this.#waiters.shift();
    if (waiter) waiter.resolve(item);
    else this.#items.push(item);
  }

  /** No more values: `take` gives null once the queue is empty. */
  close(): void {
    this.#end(undefined);
  }

  /** No more values: `take` throws `error` once the queue is empty. */
  fail(error: Error): void {
    this.#end(error);
  }

  /** The next value; null after the end. Safe to cancel: no value is lost by it. */
  async take(signal: AbortSignal): Promise<T | null> {
    signal.throwIfAborted();
    const item = this.#items.shift();
    if (item !== undefined) return item;
    if (this.#error) throw this.#error;
    if (this.#ended) return null;
    const waiter = Promise.withResolvers<T | null>();
    this.#waiters.push(waiter);
    try {
      return await abortable(waiter.promise, signal);
    } catch (error) {
      const at = this.#waiters.indexOf(waiter);
      if (at >= 0) this.#waiters.splice(at, 1);
      // It was handed a value in the same turn in which it was cancelled: put that back.
      else waiter.promise.then((late) => late !== null && this.#items.unshift(late), () => {});
      throw error;
    }
  }

  #end(error: Error | undefined): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#error = error;
    for (const waiter of this.#waiters.splice(0)) {
      if (error) waiter.reject(error);
      else waiter.resolve(null);
    }
  }
}
