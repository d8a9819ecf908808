// One thread of the fuzzer: runs every n-th case of each target in turn, and tells what it found.

import { findDefect, minimise, showInput } from "./minimise.ts";
import { Random } from "./random.ts";
import { type Ending, runCase, type Target } from "./target.ts";
import { targetNamed } from "./target_table.ts";

export interface Task {
  seed: number;
  /** This worker runs the cases `index`, `index + workers`, ... */
  index: number;
  workers: number;
  /** Target, and the first case that is not to be run. */
  targets: { name: string; share: number; endCase: number }[];
  firstCase: number;
  seconds: number;
  /** Target and case under way, and a count that moves while the worker does. */
  progress: SharedArrayBuffer;
}

export type Told =
  | { type: "ran"; target: string; cases: number; values: number; ms: number }
  | { type: "found"; target: string; caseNumber: number; error: string; input: string }
  /** The fuzzer itself is broken. */
  | { type: "failed"; error: string }
  | { type: "done" };

/** Cases of one target before its turn ends, for each of its share. */
const TURN = 4;
/** After so many findings a target is left alone. */
const MAX_FINDINGS = 3;
const STACK_LINES = 12;

/** The part of a worker's own scope that is used; the compiler takes every file for a page's. */
const scope = self as unknown as {
  postMessage(told: Told): void;
  onmessage: (event: MessageEvent<Task>) => void;
};
const tell = (told: Told) => scope.postMessage(told);

scope.onmessage = async ({ data }: MessageEvent<Task>) => {
  try {
    await new Fuzzing(data).run();
    tell({ type: "done" });
  } catch (error) {
    tell({ type: "failed", error: error instanceof Error ? error.stack ?? "" : String(error) });
  }
};

class Fuzzing {
  readonly #task: Task;
  readonly #progress: Int32Array;
  /** Of each target, the next case. */
  readonly #next = new Map<string, number>();
  readonly #findings = new Map<string, number>();
  #unhandled: unknown;

  constructor(task: Task) {
    this.#task = task;
    this.#progress = new Int32Array(task.progress);
    self.addEventListener("unhandledrejection", (event) => {
      event.preventDefault();
      this.#unhandled ??= event.reason;
    });
  }

  async run(): Promise<void> {
    const { targets, seconds, firstCase, index } = this.#task;
    const end = performance.now() + seconds * 1000;
    for (const { name } of targets) this.#next.set(name, firstCase + index);
    Error.stackTraceLimit = 0; // the errors of ours are many, and their stacks cost most of the time
    for (let busy = true; busy;) {
      busy = false;
      for (const [at, { name, share, endCase }] of targets.entries()) {
        if (performance.now() > end) return;
        const isDone = this.#next.get(name)! >= endCase ||
          (this.#findings.get(name) ?? 0) >= MAX_FINDINGS;
        if (isDone) continue;
        busy = true;
        this.#progress[0] = at;
        await this.#turn(targetNamed(name), { endCase, count: Math.max(1, share * TURN) });
      }
    }
  }

  async #turn(target: Target, { endCase, count }: { endCase: number; count: number }) {
    const { seed, workers } = this.#task;
    const start = performance.now();
    const first = this.#next.get(target.name)!;
    let caseNumber = first;
    let cases = 0;
    let values = 0;
    for (; cases < count && caseNumber < endCase; caseNumber += workers, cases++) {
      this.#progress[1] = caseNumber;
      const input = target.make(new Random(seed, caseNumber));
      try {
        const running = runCase(target, input);
        const ending: Ending = running instanceof Promise ? await running : running;
        if (ending === "value") values++;
      } catch {
        await this.#found(target, caseNumber);
        if (this.#findings.get(target.name)! >= MAX_FINDINGS) break;
      }
    }
    this.#next.set(target.name, caseNumber);
    tell({ type: "ran", target: target.name, cases, values, ms: performance.now() - start });
    await turnOfEventLoop(); // only then are unhandled rejections told
    if (this.#unhandled !== undefined) {
      await this.#findUnhandled(target, { first, end: caseNumber });
    }
  }

  /** Runs the case again, with a stack, and makes its input small. */
  async #found(target: Target, caseNumber: number): Promise<void> {
    this.#findings.set(target.name, (this.#findings.get(target.name) ?? 0) + 1);
    Error.stackTraceLimit = STACK_LINES;
    let input = target.make(new Random(this.#task.seed, caseNumber));
    let error = await findDefect(target, input);
    if (error !== null) {
      const onTry = () => void this.#progress[2]!++;
      input = await minimise(target, input, { error, onTry });
      error = await findDefect(target, input);
    }
    Error.stackTraceLimit = 0;
    this.#report(target, caseNumber, { error: error ?? "not again when repeated", input });
  }

  /** Somewhere in these cases a promise failed that nobody waits for. */
  async #findUnhandled(target: Target, { first, end }: { first: number; end: number }) {
    const error = this.#unhandled;
    for (let at = first; at < end; at += this.#task.workers) {
      this.#unhandled = undefined;
      const input = target.make(new Random(this.#task.seed, at));
      await findDefect(target, input);
      await turnOfEventLoop();
      if (this.#unhandled === undefined) continue;
      this.#findings.set(target.name, MAX_FINDINGS);
      this.#report(target, at, { error: this.#unhandled, input });
      this.#unhandled = undefined;
      return;
    }
    this.#report(target, first, { error, input: "unhandled; not again when repeated" });
    this.#unhandled = undefined;
  }

  #report(target: Target, caseNumber: number, found: { error: unknown; input: unknown }): void {
    const { error, input } = found;
    const text = error instanceof Error ? error.stack ?? `${error}` : String(error);
    tell({ type: "found", target: target.name, caseNumber, error: text, input: showInput(input) });
  }
}

function turnOfEventLoop(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}
