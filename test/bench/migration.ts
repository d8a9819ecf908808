// A whole migration by this program against the limit (limit.ts), in one run, by turns:
//
//   deno run -A test/bench/migration.ts [--rounds N] [--case NAME] [--ways limit,insecure,direct,tunnel]
//
// The program is the executable that MIGRATE_AGENT names, else agents/main.ts. Everything lies in
// TMPDIR: a folder in memory (/dev/shm) leaves the machine's disk out of it.
// Prints a line per migration, then the medians with their quartiles and the ratios to the limit. The
// last line of each case is JSON.

import { parseArgs } from "@std/cli/parse-args";
import { TempDir } from "../lib/temp.ts";
import { moveByQmp } from "./limit.ts";
import { type BenchCase, makeTemplate, Scene } from "./scene.ts";
import { Stopwatch, type Times } from "./stopwatch.ts";

/** QMP alone; the program unencrypted as that is; by default (TLS); with the disk in the same connection. */
const WAYS = ["limit", "insecure", "direct", "tunnel"] as const;
type Way = (typeof WAYS)[number];

/** Processor seconds of both agents with what they start to check; 0 for the limit, which has none. */
type Result = Times & { cpuSeconds: number };

const RUN_TIMEOUT_MS = 180_000;

const CASES: readonly BenchCase[] = [
  {
    name: "idle",
    about: "128 MiB of memory that is mostly zero, a disk of 1 GiB with 256 MiB in it",
    memoryMib: 128,
    guest: { turnMs: 10, slots: 64 },
    disk: { sizeMib: 1024, dataMib: 256 },
    lapsBefore: 0,
  },
  {
    name: "busy",
    about: "512 MiB of memory, all in use, changing at 80 MiB/s or so; a disk write every 10 ms",
    memoryMib: 512,
    guest: { turnMs: 10, slots: 4096, windowBytes: 448 * 2 ** 20, pagesPerTurn: 256 },
    disk: { sizeMib: 256, dataMib: 64 },
    lapsBefore: 1,
  },
];

async function moveByAgents(
  scene: Scene,
  options: { way: Way; stopwatch: Stopwatch; signal: AbortSignal },
): Promise<void> {
  const { way, stopwatch, signal } = options;
  const { site, source } = scene;
  const opened = scene.openDestination(signal).then(stopwatch.follow);
  opened.catch(() => {}); // thrown below, unless something else fails first
  const receive = ["--listen", "127.0.0.1:0", "--qemu", scene.qemu];
  if (way === "insecure") receive.push("--insecure");
  const receiver = await site.receive(receive, signal);
  stopwatch.begin();
  const sender = site.start([
    ...["send", "-q", ...receiver.reach, "--qmp", source.qmpPath],
    ...(way === "tunnel" ? ["--nbd", "tunnel"] : []),
    ...["--source-after", "paused"], // its processor seconds are not the agents'
  ], signal);
  await Promise.all([sender.expectEnd(0), receiver.agent.expectEnd(0), opened]);
}

async function measure(benchCase: BenchCase, options: {
  way: Way;
  template: string;
}): Promise<Result> {
  const { way, template } = options;
  const signal = AbortSignal.timeout(RUN_TIMEOUT_MS);
  await using scene = await Scene.create(benchCase, { template, signal });
  using stopwatch = new Stopwatch(scene.source.monitor);
  const cpuBefore = childrenCpuSeconds();
  if (way === "limit") await moveByQmp(scene, { opened: stopwatch.follow, signal });
  else await moveByAgents(scene, { way, stopwatch, signal });
  const cpuSeconds = way === "limit" ? 0 : childrenCpuSeconds() - cpuBefore;
  const times = await stopwatch.finish(signal);
  return { ...times, cpuSeconds };
}

/** Of the children that have ended, and of theirs. */
function childrenCpuSeconds(): number {
  const fields = Deno.readTextFileSync("/proc/self/stat").split(") ")[1]!.split(" ");
  return (Number(fields[13]) + Number(fields[14])) / 100;
}

function describe(result: Result): string {
  return Object.entries(result).map(([name, value]) =>
    name === "cpuSeconds" ? `CPU ${value.toFixed(2)} s` : `${name} ${value.toFixed(0)}`
  ).join(", ");
}

function quantile(values: readonly number[], at: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.round(at * (sorted.length - 1))]!;
}

function summarize(benchCase: BenchCase, results: ReadonlyMap<Way, Result[]>): void {
  const rounds = Math.min(...[...results.values()].map((runs) => runs.length));
  const names = Object.keys([...results.values()][0]![0]!) as (keyof Result)[];
  const medians: Record<string, Record<string, number>> = {};
  console.log(`\n${benchCase.name}: median (quartiles) of ${rounds} rounds; ratio to the limit`);
  for (const name of names) {
    const cells = [...results].map(([way, runs]) => {
      const values = runs.map((run) => run[name]);
      const median = quantile(values, 0.5);
      (medians[way] ??= {})[name] = Number(median.toFixed(2));
      const digits = name === "cpuSeconds" ? 2 : 0;
      const [low, middle, high] = [quantile(values, 0.25), median, quantile(values, 0.75)]
        .map((value) => value.toFixed(digits));
      const limit = medians.limit?.[name];
      const ratio = way !== "limit" && limit ? ` x${(median / limit).toFixed(2)}` : "";
      return `${way} ${middle} (${low}-${high})${ratio}`.padEnd(30);
    });
    console.log(`  ${name.padEnd(11)} ${cells.join(" ").trimEnd()}`);
  }
  console.log(JSON.stringify({ bench: "migration", case: benchCase.name, rounds, medians }));
}

async function compare(benchCase: BenchCase, options: {
  ways: readonly Way[];
  rounds: number;
}): Promise<void> {
  await using temp = await TempDir.create();
  const template = temp.file("template.raw");
  await makeTemplate(template, benchCase);
  console.log(`\n${benchCase.name}: ${benchCase.about}`);
  const results = new Map<Way, Result[]>(options.ways.map((way) => [way, []]));
  for (let round = 1; round <= options.rounds; round++) {
    for (const way of options.ways) {
      const result = await measure(benchCase, { way, template });
      results.get(way)!.push(result);
      console.log(`round ${round} ${way.padEnd(6)} ${describe(result)}`);
    }
  }
  summarize(benchCase, results);
}

const flags = parseArgs(Deno.args, { string: ["rounds", "case", "ways"] });
const rounds = Number(flags.rounds ?? 5);
const ways = String(flags.ways ?? WAYS).split(",").map((name) => {
  const way = WAYS.find((known) => known === name);
  if (way) return way;
  throw new Error(`Unknown way '${name}': there are ${WAYS.join(", ")}`);
});
const chosen = CASES.filter(({ name }) => flags.case === undefined || name === flags.case);
if (chosen.length === 0 || !Number.isInteger(rounds) || rounds < 1) {
  throw new Error(`Nothing to do: cases are ${CASES.map(({ name }) => name).join(", ")}`);
}
for (const benchCase of chosen) await compare(benchCase, { ways, rounds });
