// What a parser under test looks like to the fuzzer, and the rule that every case is judged by: it
// ends with a value or with one of the project's own errors, in bounded time, and the error can be
// shown to people as it is.

import { AgentError } from "../../src/base/errors.ts";
import type { Random } from "./random.ts";

/** Inputs are plain data: bytes, text, or JSON values. */
export interface Target<I = unknown> {
  readonly name: string;
  /** Cases of each thousand that go to this target: cheap ones get more. */
  readonly share: number;
  /** The input of one case. */
  make(random: Random): I;
  /** Parses `input` and checks what came of it. Throws `Broken` when a property does not hold. */
  run(input: I): void | Promise<void>;
}

/** A property that does not hold. */
export class Broken extends Error {
  override readonly name = "Broken";
}

export function holds(condition: boolean, what: () => string): void {
  if (!condition) throw new Broken(what());
}

/** How a case ended well: with a value, or with an error of ours. */
export type Ending = "value" | "refused";

/** Longer than this takes no single input that the limits let through, on a busy machine. */
export const CASE_LIMIT_MS = 3000;
/** Beyond what an error may quote. */
const MAX_TEXT_LENGTH = 12_000;
const UNPRINTABLE = /\p{Cc}/u;

/** Runs one case. Throws what shows a defect. */
export function runCase(target: Target, input: unknown): Ending | Promise<Ending> {
  const start = performance.now();
  try {
    const running = target.run(input);
    if (!(running instanceof Promise)) return ended(start, "value");
    return running.then(
      () => ended(start, "value"),
      (error) => ended(start, judge(error)),
    );
  } catch (error) {
    return ended(start, judge(error));
  }
}

function ended(start: number, ending: Ending): Ending {
  const ms = performance.now() - start;
  holds(ms < CASE_LIMIT_MS, () => `took ${Math.round(ms)} ms`);
  return ending;
}

function judge(error: unknown): Ending {
  if (!(error instanceof AgentError)) throw error;
  const { code, kind, message, hint = "" } = error;
  holds(kind !== "internal", () => `${code}, a defect of the program: ${message}`);
  for (const text of [message, hint]) checkProse(text, code);
  return "refused";
}

/** A text that people will see: the peer must not play tricks on their terminal with it. */
export function checkProse(text: string, what: string): void {
  holds(!UNPRINTABLE.test(text), () => `${what} passes control characters on`);
  holds(text.length < MAX_TEXT_LENGTH, () => `${what} is a text of ${text.length}`);
}
