// Limits on those who have not proved anything yet: how many at once, how long, how many failures.
// Guessing a secret of 256 bits is hopeless anyway; the limits keep the log, the memory and the
// processor free, and the running migration, which has its connection already, does not see them.
// Knows nothing of what a failure was.

import { abortable } from "../base/deadline.ts";
import { AgentError } from "../base/errors.ts";

/** Time, or that of a test. */
export interface Clock {
  nowMs(): number;
  setTimeout(callback: () => void, ms: number): number;
  clearTimeout(id: number): void;
}

export const SYSTEM_CLOCK: Clock = {
  nowMs: () => performance.now(),
  setTimeout: (callback, ms) => setTimeout(callback, ms),
  clearTimeout: (id) => clearTimeout(id),
};

export interface LimitValues {
  /** From accepting a connection to the end of its proof, the delay after a failure included. */
  handshakeMs: number;
  /** Between a wrong proof and the refusal. */
  delayMs: number;
  /** Connections that have not proved yet. */
  maxHalfOpen: number;
  maxHalfOpenPerSource: number;
  /** Failures within the window after which a source, or everybody, is turned away for the pause. */
  maxFailuresPerSource: number;
  maxFailures: number;
  windowMs: number;
  pauseMs: number;
}

export const LIMITS: Readonly<LimitValues> = {
  handshakeMs: 10_000,
  delayMs: 1000,
  maxHalfOpen: 64,
  maxHalfOpenPerSource: 16,
  maxFailuresPerSource: 10,
  maxFailures: 100,
  windowMs: 60_000,
  pauseMs: 60_000,
};

/** Sources that are remembered; the one that was silent for longest is forgotten. */
const MAX_SOURCES = 1024;

/** A source's failures, or everybody's. */
interface Tally {
  failures: number;
  windowEndsMs: number;
  pausedUntilMs: number;
}

interface Source extends Tally {
  halfOpen: number;
  /** Somebody there has proved before: a pause for everybody does not hold for them. */
  proved: boolean;
}

/** A connection that has been let in; disposing it makes its place free. */
export interface Admission extends Disposable {
  readonly source: string;
  /** Counts a failure. */
  failed(): void;
  /** Somebody at this source knows the secret. */
  proved(): void;
}

export class AttemptLimits {
  readonly #values: LimitValues;
  readonly #clock: Clock;
  readonly #sources = new Map<string, Source>();
  readonly #everybody: Tally = { failures: 0, windowEndsMs: 0, pausedUntilMs: 0 };
  #halfOpen = 0;

  constructor(values: LimitValues = LIMITS, clock: Clock = SYSTEM_CLOCK) {
    this.#values = values;
    this.#clock = clock;
  }

  /**
   * Lets a connection from `address` (an IP address) in, or throws `too_many_connections` or
   * `too_many_failures`, kind "refused": it is to be closed without a word.
   */
  admit(address: string): Admission {
    const { maxHalfOpen, maxHalfOpenPerSource } = this.#values;
    const name = sourceOf(address);
    const source = this.#sourceNamed(name);
    const nowMs = this.#clock.nowMs();
    if (nowMs < source.pausedUntilMs) {
      throw turnedAway("too_many_failures", `Too many wrong proofs from ${name}`);
    }
    if (nowMs < this.#everybody.pausedUntilMs && !source.proved) {
      throw turnedAway("too_many_failures", `Too many wrong proofs, the last not from ${name}`);
    }
    if (source.halfOpen >= maxHalfOpenPerSource) {
      throw turnedAway(
        "too_many_connections",
        `${source.halfOpen} from ${name} have not proved yet`,
      );
    }
    if (this.#halfOpen >= maxHalfOpen) {
      throw turnedAway("too_many_connections", `${this.#halfOpen} have not proved yet`);
    }
    source.halfOpen++;
    this.#halfOpen++;
    let open = true;
    return {
      source: name,
      failed: () => {
        this.#count(source, this.#values.maxFailuresPerSource);
        this.#count(this.#everybody, this.#values.maxFailures);
      },
      proved: () => {
        source.proved = true;
        source.failures = 0;
      },
      [Symbol.dispose]: () => {
        if (!open) return;
        open = false;
        source.halfOpen--;
        this.#halfOpen--;
      },
    };
  }

  /** Waits as long as a wrong proof costs, or throws the signal's reason. */
  async delay(signal: AbortSignal): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = this.#clock.setTimeout(resolve, this.#values.delayMs);
    try {
      await abortable(promise, signal);
    } finally {
      this.#clock.clearTimeout(timer);
    }
  }

  /** A signal that aborts with `handshake_timeout` when a handshake has taken too long. */
  deadline(parent: AbortSignal): { signal: AbortSignal } & Disposable {
    const controller = new AbortController();
    const { handshakeMs } = this.#values;
    const timer = this.#clock.setTimeout(
      () =>
        controller.abort(
          new AgentError(
            "handshake_timeout",
            `The peer proved nothing within ${handshakeMs / 1000} seconds`,
            { kind: "refused" },
          ),
        ),
      handshakeMs,
    );
    return {
      signal: AbortSignal.any([parent, controller.signal]),
      [Symbol.dispose]: () => this.#clock.clearTimeout(timer),
    };
  }

  #sourceNamed(name: string): Source {
    const known = this.#sources.get(name);
    const source = known ??
      { failures: 0, windowEndsMs: 0, pausedUntilMs: 0, halfOpen: 0, proved: false };
    // To the end of the order, so that the first is the one that was silent for longest.
    this.#sources.delete(name);
    this.#sources.set(name, source);
    if (this.#sources.size > MAX_SOURCES) {
      for (const [oldest, { halfOpen }] of this.#sources) {
        if (halfOpen > 0) continue; // at most maxHalfOpen of them
        this.#sources.delete(oldest);
        break;
      }
    }
    return source;
  }

  #count(tally: Tally, max: number): void {
    const nowMs = this.#clock.nowMs();
    if (nowMs >= tally.windowEndsMs) {
      tally.failures = 0;
      tally.windowEndsMs = nowMs + this.#values.windowMs;
    }
    if (++tally.failures < max) return;
    tally.failures = 0;
    tally.pausedUntilMs = nowMs + this.#values.pauseMs;
  }
}

/** One source: an IPv4 address, or the half of an IPv6 address that one customer is given (/64). */
export function sourceOf(address: string): string {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1];
  if (mapped !== undefined) return mapped;
  if (!address.includes(":")) return address;
  const [head = "", tail] = address.toLowerCase().replace(/%.*/, "").split("::");
  const groups = head === "" ? [] : head.split(":");
  if (tail !== undefined) {
    const end = tail === "" ? [] : tail.split(":");
    while (groups.length + end.length < 8) groups.push("0");
    groups.push(...end);
  }
  return groups.slice(0, 4).join(":") + "::/64";
}

function turnedAway(code: string, what: string): AgentError {
  return new AgentError(code, `A connection was turned away: ${what}`, { kind: "refused" });
}
