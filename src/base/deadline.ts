// Time limits and cancellation. Every wait in this project takes an AbortSignal and ends with that
// signal's reason; the helpers here make such signals and attach them to promises.

import { AgentError } from "./errors.ts";

/** The reason of an aborted signal as an error (never undefined). */
export function abortReason(signal: AbortSignal): Error {
  const reason: unknown = signal.reason;
  return reason instanceof Error ? reason : new Error(String(reason));
}

/**
 * `promise`, or the signal's reason as soon as `signal` aborts. The work behind `promise` is not
 * stopped by this: whoever started it must watch the same signal if it holds something.
 */
export function abortable<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  if (signal.aborted) {
    promise.catch(() => {}); // its outcome is of no interest any more; the reason below is
    return Promise.reject(abortReason(signal));
  }
  return new Promise<T>((resolve, reject) => {
    const onAbort = () => reject(abortReason(signal));
    signal.addEventListener("abort", onAbort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", onAbort));
  });
}

/** A limit that can be disposed (`using`): its signal aborts with `makeError()` after `ms`. */
export class Deadline implements Disposable {
  readonly signal: AbortSignal;
  #timer: number | undefined;

  /** `ms` of Infinity means no limit; `parent` aborts the new signal with its own reason. */
  constructor(ms: number, makeError: () => AgentError, parent?: AbortSignal) {
    const controller = new AbortController();
    this.signal = parent ? AbortSignal.any([parent, controller.signal]) : controller.signal;
    if (Number.isFinite(ms)) {
      this.#timer = setTimeout(() => controller.abort(makeError()), ms);
    }
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
  }
}

/** Resolves after `ms`, or rejects with the signal's reason. */
export function delay(ms: number, signal?: AbortSignal): Promise<void> {
  if (signal?.aborted) return Promise.reject(abortReason(signal));
  return new Promise((resolve, reject) => {
    const onAbort = () => {
      clearTimeout(timer);
      reject(abortReason(signal!));
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", onAbort);
      resolve();
    }, ms);
    signal?.addEventListener("abort", onAbort, { once: true });
  });
}
