// A guest that moves: the tiny guest in a source QEMU, one migration of it, and what must hold
// afterwards on both sides whatever machine it was.

import { assert, assertEquals, assertGreaterOrEqual } from "@std/assert";
import { makeBootProgram, type TinyGuestOptions } from "../../src/demo_guest/guest.ts";
import { abortable } from "../../src/base/deadline.ts";
import type { QmpClient } from "../../src/qmp/client.ts";
import type { Agent, AgentEnd } from "./agents.ts";
import { type ImageFormat, makeImage } from "./disks.ts";
import type { ArrivedGuest, Receiver, TestSite } from "./site.ts";
import { readGuest, TestVm, waitForCountAbove } from "./vm.ts";

/**
 * Every sector and page is written and checked again within `LAP_TURNS` turns. It rests in between:
 * a mirror is ready only at a moment in which nothing is left to copy, and an emulated guest that
 * writes without a break leaves it few of those.
 */
const QUICK_GUEST: TinyGuestOptions = { slots: 8, pagesPerTurn: 32, turnMs: 20 };
const LAP_TURNS = 20;
/** The exit code of an agent that was told to stop. */
const CANCELLED = 5;

export interface BootDiskOptions {
  format?: ImageFormat;
  sizeBytes?: number;
  guest?: TinyGuestOptions;
  backing?: { path: string; format: ImageFormat };
  signal: AbortSignal;
}

/** Makes a disk from which the tiny guest boots. */
export async function makeBootDisk(path: string, options: BootDiskOptions): Promise<void> {
  const { format = "raw", sizeBytes = 8 * 2 ** 20, guest = {}, backing, signal } = options;
  const content = makeBootProgram({ ...QUICK_GUEST, ...guest });
  await makeImage(path, { format, sizeBytes, content, signal, ...(backing ? { backing } : {}) });
}

/**
 * Options for disks on virtio-blk, named d0, d1 and so on, the first to boot from. Nothing is synced:
 * that would only make the tests wait for the machine's own disk.
 */
export function attach(...paths: string[]): string[] {
  return ["-nodefaults"].concat(paths.flatMap((path, at) => [
    ...["-drive", `file=${path},format=${formatOf(path)},if=none,id=d${at},cache=unsafe`],
    ...["-device", `virtio-blk-pci,drive=d${at},id=b${at}${at === 0 ? ",bootindex=1" : ""}`],
  ]));
}

/** By the path's ending. */
export function formatOf(path: string): ImageFormat {
  return path.endsWith(".qcow2") ? "qcow2" : "raw";
}

/** Starts a QEMU of 64 MiB with `args` and waits until its tiny guest has been around once. */
export async function startGuest(
  args: readonly string[],
  options: { signal: AbortSignal; binary?: string; netns?: string },
): Promise<TestVm> {
  const vm = await TestVm.start(["-m", "64", ...args], options);
  await vm.waitForCountAbove(LAP_TURNS, options.signal);
  return vm;
}

/** What of a QEMU a migration may change only for as long as it lasts. */
export interface Baseline {
  parameters: Record<string, unknown>;
  capabilities: unknown;
  nodes: string[];
}

/** Notes the state that `assertUntouched` compares with. */
export async function readBaseline(qmp: QmpClient, signal: AbortSignal): Promise<Baseline> {
  const [parameters, capabilities, nodes] = await Promise.all([
    qmp.execute("query-migrate-parameters", {}, { signal }),
    qmp.execute("query-migrate-capabilities", {}, { signal }),
    qmp.execute("query-named-block-nodes", { flat: true }, { signal }),
  ]);
  return { parameters, capabilities, nodes: nodes.map((node) => node["node-name"] ?? "").sort() };
}

/** The source after a migration that failed: it runs on, checks out, and holds nothing of it. */
export async function assertUntouched(
  vm: TestVm,
  { before, signal }: { before: Baseline; signal: AbortSignal },
): Promise<void> {
  assertEquals(await vm.monitor.execute("query-block-jobs", {}, { signal }), []);
  assertEquals(await vm.monitor.execute("query-jobs", {}, { signal }), []);
  assertEquals(await readBaseline(vm.monitor, signal), before);
  assertEquals(await vm.runState(signal), "running");
  await assertGoesOn(vm.monitor, { since: (await vm.readGuest(signal)).count, signal });
}

/** The guest counts on from `since` and finds all that it wrote, having looked at all of it. */
export async function assertGoesOn(
  qmp: QmpClient,
  { since, signal }: { since: number; signal: AbortSignal },
): Promise<void> {
  const first = await readGuest(qmp, signal);
  assertGreaterOrEqual(first.count, since, "the guest's counter went back");
  const count = first.count + LAP_TURNS;
  const { badDisk, badRam, ioErrors, firstBad, disks } = await waitForCountAbove(qmp, {
    count,
    signal,
  });
  assertEquals(
    { badDisk, badRam, ioErrors, firstBad, disks },
    { badDisk: 0, badRam: 0, ioErrors: 0, firstBad: null, disks: first.disks },
  );
}

/** A QEMU in which a guest goes on keeps nothing of the migration. */
export async function assertNoRemains(qmp: QmpClient, signal: AbortSignal): Promise<void> {
  assertEquals(await qmp.execute("query-block-jobs", {}, { signal }), []);
  assertEquals(await qmp.execute("query-block-exports", {}, { signal }), []);
  const { nodes } = await readBaseline(qmp, signal);
  assertEquals(nodes.filter((name) => name.startsWith("migrate-agent")), []);
  const stop = qmp.execute("nbd-server-stop", {}, { signal });
  const refusal = await stop.then(() => "it ran", (error: Error) => error.message);
  assert(refusal.includes("not running"), `the NBD server was not stopped: ${refusal}`);
}

export interface Moved extends AsyncDisposable {
  sender: AgentEnd;
  receiver: AgentEnd;
  guest: ArrivedGuest;
}

export interface MoveOptions {
  source: TestVm | ArrivedGuest;
  /** Options of `receive`, for a receiver of this migration alone. */
  receive?: readonly string[];
  /** A receiver that serves others too, instead. */
  receiver?: Receiver;
  /** Options of `send`; default: -q. */
  send?: readonly string[];
  /** What is done to it once both agents run. */
  disturb?: (sender: Agent, receiver: Agent) => Promise<unknown>;
  signal: AbortSignal;
}

/**
 * One migration that must succeed, and the checks of both ends. The guest's QMP connection is the
 * caller's to dispose.
 */
export async function move(site: TestSite, options: MoveOptions): Promise<Moved> {
  const { signal } = options;
  const { sender, receiver, since } = await startMove(site, options);
  await options.disturb?.(sender, receiver.agent);
  const sent = await abortable(sender.ended, signal);
  if (sent.code !== 0) throw new Error(`${sender.describe()}\n${receiver.agent.describe()}`);
  const { account } = sent;
  const received = options.receiver ? sent : await receiver.agent.expectEnd(0);
  assertEquals(account?.outcome, "completed");
  assertEquals(account?.owner, "destination");
  assertEquals(received.account?.pid, account?.pid);
  const guest = await site.openGuest(account!, signal);
  try {
    await assertNoRemains(guest.qmp, signal);
    if (!options.receiver) {
      await site.assertNoTemporaryFiles();
      await site.assertNoJournals();
    }
    if (account!.running) await assertGoesOn(guest.qmp, { since, signal });
    else assertEquals((await readGuest(guest.qmp, signal)).count, since);
  } catch (error) {
    await guest[Symbol.asyncDispose]();
    throw error;
  }
  const { [Symbol.asyncDispose]: dispose } = guest;
  return {
    sender: sent,
    receiver: received,
    guest,
    [Symbol.asyncDispose]: () => dispose.call(guest),
  };
}

/** Starts a receiver (unless one is given) and a sender; whoever calls sees to their ends. */
export async function startMove(
  site: TestSite,
  { source, receive = [], receiver, send = ["-q"], signal }: MoveOptions,
): Promise<{ sender: Agent; receiver: Receiver; since: number }> {
  const monitor = source instanceof TestVm ? source.monitor : source.qmp;
  const { count: since } = await readGuest(monitor, signal);
  // An arrived guest has but one QMP socket, and that serves one client at a time.
  if (!(source instanceof TestVm)) await source.qmp.close();
  const ready = receiver ?? await site.receive(receive, signal);
  const args = ["send", ...ready.reach, "--qmp", source.qmpPath, ...send];
  return { sender: site.start(args, signal), receiver: ready, since };
}

/**
 * One migration that must not succeed, and the checks that nothing of it stays on either side.
 * @param options.codes exit codes of sender and receiver; null for a receiver that is never asked
 * @param options.error the `code` of the sender's error
 */
export async function failToMove(
  site: TestSite,
  options: MoveOptions & {
    source: TestVm;
    codes: { sender: number; receiver: number | null };
    /** Null for any. */
    error: string | null;
    /** Files that were among the destination's disks before. */
    disks?: string[];
    /** The destination was left by force: what is there still is not looked at. */
    leavesRemains?: boolean;
  },
): Promise<AgentEnd> {
  const { source, signal, codes } = options;
  const before = await readBaseline(source.monitor, signal);
  const { sender, receiver } = await startMove(site, options);
  await options.disturb?.(sender, receiver.agent);
  const end = await abortable(sender.ended, signal);
  const { code, error } = end;
  const said = () => `${sender.describe()}\n${receiver.agent.describe()}`;
  assertEquals(
    [code, error?.code, error?.undo],
    [codes.sender, options.error ?? error?.code, []],
    said(),
  );
  if (!options.receiver) {
    // A receiver that nobody has asked for anything waits on.
    if (codes.receiver === null) receiver.agent.kill("SIGTERM");
    const received = await abortable(receiver.agent.ended, signal);
    assertEquals(
      [received.code, received.error?.undo ?? []],
      [codes.receiver ?? CANCELLED, []],
      said(),
    );
    if (!options.leavesRemains) {
      await site.assertEmpty({ disks: options.disks ?? [] });
      await site.assertNothingToResolve();
    }
  }
  await assertUntouched(source, { before, signal });
  return end;
}
