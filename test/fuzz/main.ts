// The fuzzer: `deno task fuzz [--cases N | --seconds N] [--seed N] [--target NAME] [--case N]`.
// Feeds every parser that sees the peer's bytes with mutations of real inputs; each case must end in
// a value or in one of the project's own errors. Ends with the figures, or with what was found.

import { parseArgs } from "@std/cli/parse-args";
import { targetNamed, TARGETS } from "./target_table.ts";
import type { Task, Told } from "./worker.ts";

const DEFAULT_CASES = 10_000_000;
const HELP = `Usage: deno task fuzz [OPTION...]
  --cases N      stop after N cases, shared out to the targets (default ${DEFAULT_CASES})
  --seconds N    stop after N seconds instead
  --seed N       repeat a run
  --target NAME  this target alone: ${TARGETS.map(({ name }) => name).join(", ")}
  --case N       this case alone, with --seed and --target
  --workers N    threads (default: one for each processor)`;

/** Without a sign of life for so long a case hangs, on the busiest machine. */
const HANG_MS = 30_000;
/** More than all inputs, results and garbage of all workers need. */
const MAX_MEMORY_BYTES = 3 * 2 ** 30;

interface Figures {
  cases: number;
  values: number;
  ms: number;
}

function readOptions() {
  const names = ["cases", "seconds", "seed", "target", "case", "workers"];
  const { help, _, ...options } = parseArgs(Deno.args, {
    string: names,
    boolean: ["help"],
    unknown: (word) => fail(`Unknown argument '${word}'\n${HELP}`),
  });
  if (help === true) {
    console.log(HELP);
    Deno.exit(0);
  }
  const number = (name: string, fallback: number): number => {
    const text = options[name];
    if (text === undefined) return fallback;
    if (!/^\d+$/.test(String(text))) fail(`--${name} ${text}: a whole number is expected`);
    return Number(text);
  };
  const only = number("case", -1);
  const seconds = number("seconds", Infinity);
  const isShort = options.cases === undefined && seconds !== Infinity;
  const target = typeof options.target === "string" ? targetNamed(options.target) : null;
  return {
    seed: number("seed", crypto.getRandomValues(new Uint32Array(1))[0]!),
    seconds,
    cases: only >= 0 ? 1 : number("cases", isShort ? Infinity : DEFAULT_CASES),
    firstCase: Math.max(only, 0),
    targets: target ? [target] : TARGETS,
    workers: only >= 0 ? 1 : number("workers", navigator.hardwareConcurrency),
  };
}

function fail(text: string): never {
  console.error(text);
  Deno.exit(2);
}

const options = readOptions();
const { seed, workers, targets } = options;
console.log(`fuzz: seed ${seed}, ${workers} workers`);
const figures = new Map<string, Figures>(
  targets.map(({ name }) => [name, { cases: 0, values: 0, ms: 0 }]),
);
let findings = 0;
const start = performance.now();

const allShares = targets.reduce((sum, { share }) => sum + share, 0);
const quotas = targets.map(({ name, share }) => ({
  name,
  share,
  endCase: options.firstCase + Math.ceil(options.cases * share / allShares),
}));
await Promise.all(Array.from({ length: workers }, (_, index) => runWorker(index)));
printFigures();
Deno.exit(findings > 0 ? 1 : 0);

function runWorker(index: number): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const progress = new SharedArrayBuffer(12);
  const task: Task = {
    ...{ seed, index, workers, progress, targets: quotas },
    ...{ firstCase: options.firstCase, seconds: options.seconds },
  };
  const worker = new Worker(import.meta.resolve("./worker.ts"), { type: "module" });
  const watch = watchProgress(new Int32Array(progress));
  worker.onmessage = ({ data }: MessageEvent<Told>) => {
    if (data.type === "ran") count(data);
    else if (data.type === "found") printFinding(data);
    else if (data.type === "failed") fail(`fuzz: a worker failed: ${data.error}`);
    else {
      clearInterval(watch);
      worker.terminate();
      resolve();
    }
  };
  worker.onerror = (event) => fail(`fuzz: a worker failed: ${event.message}`);
  worker.postMessage(task);
  return promise;
}

/** Ends the run when a case does not end, or memory grows without end: a worker cannot tell. */
function watchProgress(progress: Int32Array): number {
  let last = "";
  let sinceMs = performance.now();
  return setInterval(() => {
    const now = progress.join();
    const where = `${quotas[progress[0]!]!.name}, case ${progress[1]}, seed ${seed}`;
    if (now !== last) [last, sinceMs] = [now, performance.now()];
    else if (performance.now() - sinceMs > HANG_MS) {
      printFigures();
      console.error(`fuzz: FOUND a case that does not end: ${where}`);
      Deno.exit(1);
    }
    const { rss } = Deno.memoryUsage();
    if (rss > MAX_MEMORY_BYTES) {
      printFigures();
      console.error(`fuzz: FOUND ${Math.round(rss / 2 ** 20)} MiB of memory near ${where}`);
      Deno.exit(1);
    }
  }, 1000);
}

function count({ target, cases, values, ms }: { target: string } & Figures): void {
  const sum = figures.get(target)!;
  sum.cases += cases;
  sum.values += values;
  sum.ms += ms;
}

function printFinding(found: Told & { type: "found" }): void {
  findings++;
  const { target, caseNumber, error, input } = found;
  console.error(`
fuzz: FOUND in ${target}: ${error}
  again: deno task fuzz --seed ${seed} --target ${target} --case ${caseNumber}
  for test/fuzz/regressions_test.ts:
  { target: "${target}", about: "", input: ${input} },
`);
}

function printFigures(): void {
  const wallMs = performance.now() - start;
  const number = (value: number) => Math.round(value).toLocaleString("en").padStart(12);
  console.log(`${"target".padEnd(14)}${"cases".padStart(12)}${"cases/s".padStart(12)}   values`);
  const total = { cases: 0, values: 0, ms: 0 };
  for (const [name, { cases, values, ms }] of figures) {
    const percent = `${Math.round(100 * values / Math.max(cases, 1))} %`.padStart(9);
    const rate = cases / Math.max(ms, 1) * 1000;
    console.log(name.padEnd(14) + number(cases) + number(rate) + percent);
    total.cases += cases;
  }
  console.log("all".padEnd(14) + number(total.cases) + number(total.cases / wallMs * 1000));
  console.log(
    `fuzz: ${total.cases} cases in ${
      Math.round(wallMs / 1000)
    } s, ${findings} findings, seed ${seed}`,
  );
}
