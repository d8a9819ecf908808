// A guest that moves: the tiny guest in a source QEMU, one migration of it, and what must hold
// afterwards on both sides whatever machine it was.

import { assert, assertEquals, assertGreaterOrEqual } from "@std/assert";
import { makeBootProgram, type TinyGuestOptions } from "../../src/demo_guest/guest.ts";
import type { QmpClient } from "../../src/qmp/client.ts";
import type { AgentEnd } from "./agents.ts";
import { type ImageFormat, makeImage } from "./disks.ts";
import type { ArrivedGuest, Receiver, TestSite } from "./site.ts";
import { readGuest, TestVm, waitForCountAbove } from "./vm.ts";

/** Every sector and page is written and checked again within `LAP_TURNS` turns. */
const QUICK_GUEST: TinyGuestOptions = { slots: 16, pagesPerTurn: 16, turnMs: 5 };
const LAP_TURNS = 40;

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

/** Starts a QEMU of 64 MiB with `args` and waits until its tiny guest has been around once. */
export async function startGuest(
  args: readonly string[],
  options: { signal: AbortSignal; binary?: string },
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

/**
 * One migration that must succeed, and the checks of both ends; the guest's QMP connection is the
 * caller's to dispose. `source` is named by its QMP socket, `monitor` is the test's own connection
 * to it.
 */
export async function move(
  site: TestSite,
  options: {
    source: { qmpPath: string; monitor: QmpClient };
    receive?: readonly string[];
    /** An address that listens already, instead of a receiver of its own. */
    receiver?: Receiver;
    send?: readonly string[];
    signal: AbortSignal;
  },
): Promise<Moved> {
  const { source, signal, send = ["-q"] } = options;
  const before = await readGuest(source.monitor, signal);
  const receiver = options.receiver ?? await site.receive(options.receive ?? [], signal);
  const sender = site.start(
    ["send", "--to", receiver.address, "--qmp", source.qmpPath, ...send],
    signal,
  );
  const sent = await sender.ended;
  if (sent.code !== 0) throw new Error(`${sender.describe()}\n${receiver.agent.describe()}`);
  const { account } = await sender.expectEnd(0);
  const received = options.receiver ? sent : await receiver.agent.expectEnd(0);
  assertEquals(account?.outcome, "completed");
  assertEquals(account?.owner, "destination");
  assertEquals(received.account?.pid, account?.pid);
  const guest = await site.openGuest(account!, signal);
  try {
    await assertNoRemains(guest.qmp, signal);
    if (!options.receiver) await site.assertNoTemporaryFiles();
    if (account!.running) await assertGoesOn(guest.qmp, { since: before.count, signal });
    else assertEquals((await readGuest(guest.qmp, signal)).count, before.count);
  } catch (error) {
    await guest[Symbol.asyncDispose]();
    throw error;
  }
  return {
    sender: sent,
    receiver: received,
    guest,
    [Symbol.asyncDispose]: () => guest[Symbol.asyncDispose](),
  };
}
