// The soak: one guest that moves to and fro between two hosts under random faults, and a serving
// receiver on each host that lives through all of it. Nothing may be lost, doubled or leaked.
//   deno task test:soak [--rounds 100] [--seed N]
// A line a round; exit code 1 when anything did not hold. The same seed plans the same rounds.

import { parseArgs } from "@std/cli/parse-args";
import { attach, makeBootDisk, startGuest } from "../lib/moving.ts";
import { TestNet } from "../lib/netns.ts";
import { TempDir } from "../lib/temp.ts";
import { listPoints } from "./matrix.ts";
import { type Footprint, SoakHost } from "./soak_host.ts";
import { planRound } from "./soak_plan.ts";
import { runRound } from "./soak_round.ts";

const ROUND_MS = 120_000;
/** Rounds until a runtime has allocated what it needs anyway. */
const WARM_UP_ROUNDS = 10;
const MAX_GROWTH_BYTES = 32 * 2 ** 20;

export interface SoakOptions {
  rounds: number;
  seed: number;
  say: (line: string) => void;
}

/** Runs all rounds; what did not hold. @throws Error at once when the guest is lost or doubled */
export async function soak({ rounds, seed, say }: SoakOptions): Promise<string[]> {
  const start = AbortSignal.timeout(ROUND_MS);
  const points = await listPoints(start);
  await using temp = await TempDir.create();
  const secretFile = temp.file("secret");
  await Deno.writeFile(secretFile, crypto.getRandomValues(new Uint8Array(32)), { mode: 0o600 });
  await using net = await TestNet.create(start);
  const never = new AbortController().signal;
  const common = { secretFile, signal: never };
  await using left = await SoakHost.create("left", { netns: net.left, ...common });
  await using right = await SoakHost.create("right", { netns: net.right, ...common });
  const disks = [temp.file("a.raw"), temp.file("b.qcow2")];
  await bringGuest({ net, left, right, disks, secretFile, signal: start });

  const problems: string[] = [];
  const footprints: Footprint[][] = [];
  let [from, to] = [right, left];
  for (let round = 1; round <= rounds; round++) {
    const plan = planRound({ points, seed, round });
    const signal = AbortSignal.timeout(ROUND_MS);
    const result = await runRound(plan, { net, from, to, secretFile, disks, signal });
    const happened = `round ${round}: ${plan.fault} at ${plan.point}: exit ${result.code}, ` +
      `${result.at === to ? "moved to" : "stays at"} the ${result.at.name}, ` +
      `${result.commands} commands`;
    say([happened, ...result.problems].join("\n  "));
    problems.push(...result.problems.map((problem) => `round ${round}: ${problem}`));
    if (result.at === to) [from, to] = [to, from];
    footprints.push([await left.footprint(), await right.footprint()]);
  }
  for (const [at, { name }] of [left, right].entries()) {
    const series = footprints.map((both) => both[at]!);
    say(`receiver on the ${name}: ${describe(series)}`);
    problems.push(...findGrowth(series).map((growth) => `receiver on the ${name}: ${growth}`));
  }
  return problems;
}

/** A guest that a test has started moves to the right host, from where on the agents start its QEMU. */
async function bringGuest(
  { net, left, right, disks, secretFile, signal }: {
    net: TestNet;
    left: SoakHost;
    right: SoakHost;
    disks: string[];
    secretFile: string;
    signal: AbortSignal;
  },
): Promise<void> {
  await makeBootDisk(disks[0]!, { signal, sizeBytes: 48 * 2 ** 20 });
  await makeBootDisk(disks[1]!, { signal, format: "qcow2" });
  const args = ["-name", "guest", ...attach(...disks)];
  await using vm = await startGuest(args, { signal, netns: net.left.netns });
  const send = ["send", "-q", "--to", right.address, "--secret-file", secretFile];
  await left.host.start([...send, "--qmp", vm.qmpPath], signal).expectEnd(0);
}

/** What a receiver holds, over the rounds. */
function describe(series: readonly Footprint[]): string {
  const every = Math.max(1, Math.ceil(series.length / 10));
  const some = series.filter((_, at) => at % every === 0 || at === series.length - 1);
  const mib = some.map(({ residentBytes }) => Math.round(residentBytes / 2 ** 20));
  const descriptors = some.map((footprint) => footprint.descriptors);
  return `${mib.join(" ")} MiB resident, ${descriptors.join(" ")} descriptors`;
}

function findGrowth(series: readonly Footprint[]): string[] {
  const [first, last] = [series[0]!, series.at(-1)!];
  const growth: string[] = [];
  if (last.descriptors > first.descriptors) {
    growth.push(`${last.descriptors} descriptors instead of ${first.descriptors}`);
  }
  const warm = series[WARM_UP_ROUNDS];
  if (warm && last.residentBytes - warm.residentBytes > MAX_GROWTH_BYTES) {
    growth.push(`${last.residentBytes} bytes resident instead of ${warm.residentBytes}`);
  }
  return growth;
}

if (import.meta.main) {
  const args = parseArgs(Deno.args, { string: ["rounds", "seed"] });
  const rounds = Number(args.rounds ?? 100);
  const seed = Number(args.seed ?? crypto.getRandomValues(new Uint32Array(1))[0]!);
  console.log(`soak: ${rounds} rounds, seed ${seed}`);
  const problems = await soak({ rounds, seed, say: (line) => console.log(line) });
  console.log(`soak: ${rounds} rounds, seed ${seed}: ${problems.length} problems`);
  Deno.exit(problems.length === 0 ? 0 : 1);
}
