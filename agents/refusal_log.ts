// What is said of connections that were not served: of each reason the first ones, then a count, so
// that strangers cannot fill the log.

import { type AgentError } from "../src/base/errors.ts";
import type { EventBody } from "../src/migration/events.ts";

const WINDOW_MS = 60_000;
/** For one reason within the window. */
const MAX_SAID = 10;

interface Tally {
  windowEndsMs: number;
  count: number;
}

export class RefusalLog {
  readonly #say: (body: EventBody) => void;
  readonly #nowMs: () => number;
  /** By code: there are as many as this program has reasons. */
  readonly #tallies = new Map<string, Tally>();

  constructor(say: (body: EventBody) => void, nowMs: () => number = () => performance.now()) {
    this.#say = say;
    this.#nowMs = nowMs;
  }

  /** Says why a connection was refused, unless that was said often enough. */
  refused({ code, message }: AgentError): void {
    const tally = this.#tallyOf(code);
    if (++tally.count > MAX_SAID) return;
    const last = tally.count === MAX_SAID ? " (further ones will be counted only)" : "";
    this.#warn(code, `A connection was refused: ${message}${last}`);
  }

  #tallyOf(code: string): Tally {
    const nowMs = this.#nowMs();
    const known = this.#tallies.get(code);
    if (known && nowMs < known.windowEndsMs) return known;
    const unsaid = (known?.count ?? 0) - MAX_SAID;
    if (unsaid > 0) this.#warn(code, `${unsaid} more connections were refused for this reason`);
    const tally = { windowEndsMs: nowMs + WINDOW_MS, count: 0 };
    this.#tallies.set(code, tally);
    return tally;
  }

  #warn(code: string, text: string): void {
    this.#say({ type: "warning", code, text });
  }
}
