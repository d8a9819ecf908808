// What safety costs: whole migrations by this program, encrypted against plain and tunnelled against
// direct, in one run, by turns:
//
//   deno run -A test/bench/security.ts [--rounds N]
//
// The program is the executable that MIGRATE_AGENT names, else agents/main.ts. Everything lies in
// TMPDIR: a folder in memory (/dev/shm) leaves the machine's disk out of it.
// Prints a line per migration, then the medians and the ratios. The last line is JSON.

import { parseArgs } from "@std/cli/parse-args";
import { TempDir } from "../lib/temp.ts";
import { type BenchCase, makeTemplate, Scene } from "./scene.ts";
import { Stopwatch } from "./stopwatch.ts";

const RUN_TIMEOUT_MS = 180_000;

const CASE: BenchCase = {
  name: "safety",
  about: "512 MiB of memory, most of it in use, a disk of 512 MiB with 384 MiB in it",
  memoryMib: 512,
  guest: { turnMs: 20, slots: 64, windowBytes: 384 * 2 ** 20, pagesPerTurn: 512 },
  disk: { sizeMib: 512, dataMib: 384 },
  lapsBefore: 1,
};

interface Way {
  secure: boolean;
  nbd: "direct" | "tunnel";
}

const WAYS = {
  plain: { secure: false, nbd: "direct" },
  tls: { secure: true, nbd: "direct" },
  "plain tunnel": { secure: false, nbd: "tunnel" },
  "tls tunnel": { secure: true, nbd: "tunnel" },
} as const satisfies Record<string, Way>;
type WayName = keyof typeof WAYS;

/** Ratios that are aimed at: at most 1.3 in the total. */
const RATIOS: readonly [WayName, WayName][] = [
  ["tls", "plain"],
  ["tls tunnel", "tls"],
  ["plain tunnel", "plain"],
];

interface Result {
  total: number;
  mirror: number;
  ram: number;
  pause: number;
  /** Processor seconds of both agents with what they start to check. */
  cpuSeconds: number;
}

async function measure(way: Way, template: string): Promise<Result> {
  const signal = AbortSignal.timeout(RUN_TIMEOUT_MS);
  await using scene = await Scene.create(CASE, { template, signal });
  using stopwatch = new Stopwatch(scene.source.monitor);
  const { site, source } = scene;
  const cpuBefore = childrenCpuSeconds();
  const opened = scene.openDestination(signal).then(stopwatch.follow);
  const ticketFile = site.file("ticket");
  const ticket = ["--ticket-file", ticketFile];
  const receiver = await site.receive([
    ...["--listen", "127.0.0.1:0", "--qemu", scene.qemu],
    ...(way.secure ? ticket : ["--insecure"]),
  ], signal);
  stopwatch.begin();
  const sender = site.start([
    ...["send", "-q", "--qmp", source.qmpPath, "--nbd", way.nbd, "--source-after", "paused"],
    ...(way.secure ? ticket : ["--insecure", "--to", receiver.address]),
  ], signal);
  await Promise.all([sender.expectEnd(0), receiver.agent.expectEnd(0), opened]);
  const cpuSeconds = childrenCpuSeconds() - cpuBefore;
  const { total, mirror, ram, pause } = await stopwatch.finish(signal);
  return { total, mirror, ram, pause, cpuSeconds };
}

/** Of the children that have ended, and of theirs. */
function childrenCpuSeconds(): number {
  const fields = Deno.readTextFileSync("/proc/self/stat").split(") ")[1]!.split(" ");
  return (Number(fields[13]) + Number(fields[14])) / 100;
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!;
}

function describe({ cpuSeconds, ...times }: Result): string {
  const inMs = Object.entries(times).map(([name, ms]) => `${name} ${ms.toFixed(0)} ms`);
  return [...inMs, `CPU ${cpuSeconds.toFixed(2)} s`].join(", ");
}

const rounds = Number(parseArgs(Deno.args, { string: ["rounds"] }).rounds ?? 5);
if (!Number.isInteger(rounds) || rounds < 1) throw new Error("--rounds must be 1 or more");
const names = Object.keys(WAYS) as WayName[];
const results = new Map<WayName, Result[]>(names.map((name) => [name, []]));
await using temp = await TempDir.create();
await makeTemplate(temp.file("template.raw"), CASE);
console.log(CASE.about);
for (let round = 1; round <= rounds; round++) {
  for (const name of names) {
    const result = await measure(WAYS[name], temp.file("template.raw"));
    results.get(name)!.push(result);
    console.log(`round ${round} ${name.padEnd(12)} ${describe(result)}`);
  }
}
const medians = Object.fromEntries([...results].map(([name, runs]) => {
  const keys = Object.keys(runs[0]!) as (keyof Result)[];
  const of = Object.fromEntries(keys.map((key) => [key, median(runs.map((run) => run[key]))]));
  return [name, of as unknown as Result];
})) as Record<WayName, Result>;
console.log(`\nmedians of ${rounds} rounds`);
for (const name of names) console.log(`  ${name.padEnd(12)} ${describe(medians[name])}`);
for (const [name, base] of RATIOS) {
  const ratio = (key: keyof Result) => (medians[name][key] / medians[base][key]).toFixed(2);
  console.log(
    `  ${name} against ${base}: total x${ratio("total")}, CPU x${ratio("cpuSeconds")}, ` +
      `pause x${ratio("pause")}, mirror x${ratio("mirror")}, RAM x${ratio("ram")}`,
  );
}
console.log(JSON.stringify({ bench: "security", rounds, medians }));
