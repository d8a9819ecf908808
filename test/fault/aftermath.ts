// What must hold after every fault: one guest that is whole, nothing left behind, and a fresh migration
// of the same guest, wherever it is, succeeds. A guest that the fault itself has ended is started anew
// from its disks for that.

import { QmpClient } from "../../src/qmp/client.ts";
import { attach, startGuest } from "../lib/moving.ts";
import type { TestHost, TestNet } from "../lib/netns.ts";
import type { TestVm } from "../lib/vm.ts";
import type { Host } from "./host.ts";
import {
  addedDescriptors,
  checkGuest,
  countDescriptors,
  findGuests,
  type Guests,
  remainsIn,
  sourceState,
} from "./guests.ts";

export interface Aftermath {
  vm: TestVm;
  net: TestNet;
  source: Host;
  destination: Host;
  /** The guest's disks at the source. */
  disks: string[];
  /** What the source's QEMU held before the migration. */
  descriptors: ReadonlyMap<string, number>;
  /** The fault itself may have ended the only guest that could run. */
  mayBeGone: boolean;
  /** Whose disks it is started from then. */
  diesAt: "source" | "destination";
}

type Place = "source" | "destination" | "none";

/** Checks all of it; where the guest is, and what does not hold. */
export async function checkAftermath(
  aftermath: Aftermath,
  signal: AbortSignal,
): Promise<{ guest: Place; problems: string[] }> {
  const { vm, source, destination, descriptors } = aftermath;
  const guests = await findGuests(vm, destination, signal);
  const guest: Place = guests.running[0] ?? "none";
  const problems = [...await checkPlaces(aftermath, guests, signal)];
  if (guest === "source") {
    problems.push(...await remainsIn(vm.monitor, signal));
    problems.push(...addedDescriptors(descriptors, await countDescriptors(vm.pid)));
  }
  if (guest === "destination") problems.push(...await remainsIn(guests.monitor!, signal));
  if (guest !== "none") problems.push(...await checkGuest(guests.monitor!, signal));
  const from = guest === "none" ? aftermath.diesAt : guest;
  problems.push(...await source.leftovers(signal));
  const guestThere = guest === "destination" ? "guest" : "disks";
  const holds = from === "destination" ? guestThere : "nothing";
  problems.push(...await destination.leftovers(signal, { holds }));
  const own = guest === "source" ? [vm.pid] : await destination.qemus();
  problems.push(...await strayProcesses({ source, destination, own }, signal));
  await guests.release();
  if (problems.length === 0) {
    problems.push(...await moveOnceMore(aftermath, { guest, from, guests }, signal));
  }
  return { guest, problems };
}

/**
 * The other way of putting things in order: both commands are simply run again, and find what the
 * killed agent has left. What does not hold after that.
 */
export async function moveAgain(
  hosts: Pick<Aftermath, "vm" | "net" | "source" | "destination" | "disks">,
  signal: AbortSignal,
): Promise<string[]> {
  const { vm, destination } = hosts;
  const problems = await moveTo(hosts, { back: false, qmp: vm.qmpPath }, signal);
  const state = await sourceState(vm, signal);
  if (problems.length === 0 && state !== "gone") problems.push(`the source's guest is '${state}'`);
  return [
    ...problems,
    ...await strayProcesses({ ...hosts, own: await destination.qemus() }, signal),
  ];
}

/** One place at most, and one at least, but for a fault that ended it. */
async function checkPlaces(
  { destination, mayBeGone }: Aftermath,
  { running, states, destinationQmp }: Guests,
  signal: AbortSignal,
): Promise<string[]> {
  const where = `source: ${states.source}, destination: ${states.destination}`;
  if (running.length > 1) return ["two guests run"];
  if (running.length === 0) {
    const paused = states.source !== "gone" || states.destination !== "gone";
    if (!mayBeGone) return [`no guest runs (${where})`];
    return paused ? [`a guest is left that does not run (${where})`] : [];
  }
  if (running[0] === "source") return [];
  const problems = states.source === "gone" ? [] : [`the source's QEMU is left (${where})`];
  for (const account of await destination.status(signal)) {
    const { state, qmp, qemu_alive: alive, run_state: runState } = account;
    // This test is connected to the guest's only QMP socket: status cannot ask.
    const right = state === "running" && qmp === destinationQmp && alive && runState === null;
    if (!right) problems.push(`the arrived guest's journal: ${JSON.stringify(account)}`);
  }
  return problems;
}

async function strayProcesses(
  { source, destination, own }: { source: Host; destination: Host; own: readonly number[] },
  signal: AbortSignal,
): Promise<string[]> {
  const there = [...await source.processes(signal), ...await destination.processes(signal)];
  return there.filter((pid) => !own.includes(pid)).map((pid) => `process ${pid} is left`);
}

async function moveOnceMore(
  aftermath: Aftermath,
  { guest, from, guests }: { guest: Place; from: Exclude<Place, "none">; guests: Guests },
  signal: AbortSignal,
): Promise<string[]> {
  const { vm, net, source, destination, disks } = aftermath;
  const back = from === "destination";
  if (guest !== "none") {
    const qmp = back ? guests.destinationQmp! : vm.qmpPath;
    return await moveTo(aftermath, { back, qmp }, signal);
  }
  const [host, at]: [Host, TestHost] = back ? [destination, net.right] : [source, net.left];
  const images = back ? disks.map((path) => host.placeOf(path)) : disks;
  await using anew = await startGuest(["-name", "guest", ...attach(...images)], {
    signal,
    netns: at.netns,
  });
  return await moveTo(aftermath, { back, qmp: anew.qmpPath }, signal);
}

async function moveTo(
  { net, source, destination }: Omit<Aftermath, "mayBeGone" | "diesAt" | "descriptors">,
  { back, qmp }: { back: boolean; qmp: string },
  signal: AbortSignal,
): Promise<string[]> {
  const [from, to] = back ? [destination, source] : [source, destination];
  await destination.freeDisk();
  const ticket = to.file("second-ticket");
  const address = back ? net.left.address : net.right.address;
  const receiver = to.start([
    ...["receive", "--listen", `${address}:0`, "--ticket-file", ticket],
    ...["--disk-dir", to.disks, "--run-dir", to.run],
  ], signal);
  await receiver.waitFor("listening");
  const sender = from.start(["send", "-q", "--ticket-file", ticket, "--qmp", qmp], signal);
  const [sent, received] = await Promise.all([sender.ended, receiver.ended]);
  if (sent.code !== 0 || received.code !== 0) {
    return [`a fresh migration fails: ${sender.describe()}\n${receiver.describe()}`];
  }
  await using arrived = await QmpClient.connect(sent.account!.qmp!, { signal });
  return [
    ...await checkGuest(arrived, signal),
    ...await from.leftovers(signal, { holds: "disks" }),
    ...await to.leftovers(signal, { holds: "guest" }),
  ].map((problem) => `after a fresh migration: ${problem}`);
}
