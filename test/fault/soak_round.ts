// One round of the soak: the guest is to move to the other host, something happens on the way, an
// operator puts in order what needs it, and the guest is in one place, whole, with nothing left.

import { abortable, delay } from "../../src/base/deadline.ts";
import { QmpClient } from "../../src/qmp/client.ts";
import type { Agent } from "../lib/agents.ts";
import type { TestNet } from "../lib/netns.ts";
import { readGuest } from "../lib/vm.ts";
import { PASSING_MS, signalIfThere } from "./faults.ts";
import { checkGuest, remainsIn } from "./guests.ts";
import { putInOrder } from "./operator.ts";
import type { SoakHost } from "./soak_host.ts";
import type { Round } from "./soak_plan.ts";

export interface RoundOptions {
  net: TestNet;
  from: SoakHost;
  to: SoakHost;
  secretFile: string;
  /** The guest's disks, by any path. */
  disks: string[];
  signal: AbortSignal;
}

export interface RoundResult {
  /** The sender's exit code. */
  code: number;
  /** Where the guest is. */
  at: SoakHost;
  /** What the operator had to do. */
  commands: number;
  problems: string[];
}

/** Runs it. @throws Error when the guest is not in exactly one place */
export async function runRound(round: Round, options: RoundOptions): Promise<RoundResult> {
  const { net, from, to, disks, signal } = options;
  const since = to.receiver.lines.length;
  await to.host.clearDisks(disks);
  // Such as the run folder of a guest that has moved away: the next one is the same.
  const before = await to.host.leftovers(signal);
  const { count } = await withGuest(from, signal, (qmp) => readGuest(qmp, signal));
  const sender = await startSender(round, options);
  const over = new AbortController();
  const reached = await Promise.race([
    sender.waitFor("warning", ({ code }) => code === "fault_point").then(() => true, () => false),
    sender.ended.then(() => false),
  ]);
  if (reached) {
    await disturb(round, { ...options, sender, signal: AbortSignal.any([signal, over.signal]) });
    signalIfThere(sender, "SIGUSR1");
  }
  const { code } = await abortable(sender.ended, signal);
  over.abort();
  signalIfThere(to.receiver, "SIGCONT");
  await net.restore(signal);
  await to.waitUntilIdle(since);
  const order = await putInOrder({ source: from.host, destination: to.host }, signal);
  const at = await findPlace(options);
  const problems = await withGuest(at, signal, async (qmp) => {
    const now = await readGuest(qmp, signal);
    const back = now.count < count ? [`the guest's counter went back`] : [];
    return [...back, ...await checkGuest(qmp, signal), ...await remainsIn(qmp, signal)];
  });
  problems.push(...order.problems, ...await leftovers(options, { at, before }));
  if (code === 1) problems.push("exit code 1: a defect");
  if (problems.length > 0) problems.push(sender.describe(), said(to.receiver, since));
  return { code, at, commands: order.commands, problems };
}

async function startSender(round: Round, options: RoundOptions): Promise<Agent> {
  const { from, to, secretFile, signal } = options;
  const { point, fault } = round;
  const action = fault === "sender fails" ? "error" : fault === "kill sender" ? "kill" : "hold";
  const reconnect = fault === "cut for a while" ? ["--reconnect", "20s"] : [];
  const qmp = await from.host.guestQmp();
  return from.host.start([
    ...["send", "-q", "--to", to.address, "--secret-file", secretFile, "--qmp", qmp!],
    ...["--handover-timeout", "12s", ...reconnect, "--fail-at", `${point}:${action}`],
  ], signal);
}

/** Strikes while the sender stands still. What passes by itself does so later. */
async function disturb(
  { fault, lastsMs }: Round,
  { net, to, sender, signal }: RoundOptions & { sender: Agent },
): Promise<void> {
  const later = (work: () => unknown) =>
    delay(lastsMs, signal).then(work).catch((error) => {
      if (!signal.aborted) throw error;
    });
  switch (fault) {
    case "none":
    case "sender fails":
    case "kill sender":
      return; // --fail-at does it
    case "cancel":
      return signalIfThere(sender, "SIGTERM");
    case "kill destination QEMU":
      return await to.host.killQemu();
    case "cut":
      return await net.cut(signal);
    case "cut for a while":
      await net.cut(signal);
      later(() => net.restore(signal));
      return;
    case "stop sender":
      signalIfThere(sender, "SIGSTOP");
      delay(PASSING_MS).then(() => signalIfThere(sender, "SIGCONT"));
      return;
    case "stop receiver":
      signalIfThere(to.receiver, "SIGSTOP");
      later(() => signalIfThere(to.receiver, "SIGCONT"));
      return;
  }
}

/** @throws Error when the guest does not run in exactly one place */
async function findPlace({ from, to, signal }: RoundOptions): Promise<SoakHost> {
  const running: SoakHost[] = [];
  for (const host of [from, to]) {
    if (await host.host.guestQmp() === null) continue;
    const query = (qmp: QmpClient) => qmp.execute("query-status", {}, { signal });
    if ((await withGuest(host, signal, query)).running) running.push(host);
  }
  if (running.length === 1) return running[0]!;
  throw new Error(running.length === 0 ? "LOST: no guest runs" : "DOUBLED: two guests run");
}

async function leftovers(
  { from, to, signal }: RoundOptions,
  { at, before }: { at: SoakHost; before: string[] },
): Promise<string[]> {
  const moved = at === to;
  const left = [
    ...await from.host.leftovers(signal, { holds: moved ? "disks" : "guest" }),
    ...(await to.host.leftovers(signal, { holds: moved ? "guest" : "nothing" }))
      .filter((what) => !before.includes(what)),
  ];
  for (const host of [from, to]) {
    const own = [host.receiver.pid, ...(host === at ? await host.host.qemus() : [])];
    const stray = (await host.host.processes(signal)).filter((pid) => !own.includes(pid));
    left.push(...stray.map((pid) => `process ${pid}`));
  }
  return left.map((what) => `left behind: ${what}`);
}

/** The guest's QMP socket serves one client at a time. */
async function withGuest<T>(
  { host }: SoakHost,
  signal: AbortSignal,
  use: (qmp: QmpClient) => Promise<T>,
): Promise<T> {
  await using qmp = await QmpClient.connect((await host.guestQmp())!, { signal });
  return await use(qmp);
}

function said(receiver: Agent, since: number): string {
  const lines = receiver.lines.slice(since).filter(({ type }) => !type.endsWith("_progress"));
  return lines.map((line) => JSON.stringify(line)).join("\n");
}
