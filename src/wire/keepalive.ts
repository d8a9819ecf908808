// Notices a peer that has gone silent, and keeps this side from seeming so. Knows nothing of frames.
// Specification: docs/protocol.md, section 5.

/** The timers of the runtime, or those of a test. */
export interface Timers {
  setTimeout(callback: () => void, ms: number): number;
  clearTimeout(id: number): void;
}

export const SYSTEM_TIMERS: Timers = {
  setTimeout: (callback, ms) => setTimeout(callback, ms),
  clearTimeout: (id) => clearTimeout(id),
};

export interface KeepaliveOptions {
  intervalMs: number;
  /** How long the peer may be silent. */
  timeoutMs: number;
  timers: Timers;
  /** Nothing was sent, or nothing received, for the interval. */
  onIdle(): void;
  /** Nothing was received for the time limit; called once, the last call. */
  onSilent(): void;
}

/** Ticks within the shorter of the two times; also how early a verdict may come, as a part of it. */
const TICKS = 4;

/**
 * Time is counted in ticks of a timer instead of being read from a clock: a process that was stopped
 * (SIGSTOP, a suspended host) finds one tick when it wakes, not a peer that seems silent for hours.
 */
export class Keepalive {
  readonly #options: KeepaliveOptions;
  readonly #tickMs: number;
  #timer: number | undefined;
  #unheardMs = 0;
  #unsentMs = 0;
  #sinceIdleMs = 0;

  constructor(options: KeepaliveOptions) {
    this.#options = options;
    this.#tickMs = Math.min(options.intervalMs, options.timeoutMs) / TICKS;
    this.#arm();
  }

  received(): void {
    this.#unheardMs = 0;
  }

  sent(): void {
    this.#unsentMs = 0;
  }

  stop(): void {
    if (this.#timer !== undefined) this.#options.timers.clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #arm(): void {
    this.#timer = this.#options.timers.setTimeout(() => this.#tick(), this.#tickMs);
  }

  #tick(): void {
    const { intervalMs, timeoutMs, onIdle, onSilent } = this.#options;
    this.#unheardMs += this.#tickMs;
    this.#unsentMs += this.#tickMs;
    this.#sinceIdleMs += this.#tickMs;
    if (this.#unheardMs >= timeoutMs) {
      this.#timer = undefined;
      onSilent();
      return;
    }
    this.#arm();
    const idle = this.#unheardMs >= intervalMs || this.#unsentMs >= intervalMs;
    if (idle && this.#sinceIdleMs >= intervalMs) {
      this.#sinceIdleMs = 0;
      onIdle();
    }
  }
}
