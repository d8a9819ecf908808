// Where a guest runs after a fault, whether it is whole by its own check of memory and disks, and what
// of a migration its QEMU still holds.

import { QmpClient } from "../../src/qmp/client.ts";
import { readGuest, type TestVm, waitForCountAbove } from "../lib/vm.ts";
import type { Host } from "./host.ts";

/** Turns in which the guest looks at all that it has written. */
const LAP_TURNS = 20;

export interface Guests {
  running: ("source" | "destination")[];
  /** QEMU's run states; `gone` without a QEMU. */
  states: { source: string; destination: string };
  destinationQmp: string | null;
  /** A connection to the one that runs. */
  monitor: QmpClient | null;
  /** Lets go of the destination's QMP socket, which serves one client. */
  release: () => Promise<void>;
}

export async function findGuests(
  vm: TestVm,
  destination: Host,
  signal: AbortSignal,
): Promise<Guests> {
  const states = { source: await sourceState(vm, signal), destination: "gone" };
  let arrived: QmpClient | null = null;
  const path = await destination.guestQmp();
  if (path !== null) {
    arrived = await QmpClient.connect(path, { signal });
    states.destination = (await arrived.execute("query-status", {}, { signal })).status;
  }
  const running = (["source", "destination"] as const).filter((at) => states[at] === "running");
  return {
    running,
    states,
    destinationQmp: path,
    monitor: running[0] === "destination" ? arrived : vm.monitor,
    release: async () => await arrived?.close(),
  };
}

/** QEMU's run state of a guest that may be gone. */
export async function sourceState(vm: TestVm, signal: AbortSignal): Promise<string> {
  return vm.monitor.ended.aborted ? "gone" : await vm.runState(signal);
}

/** Waits until the guest has been around once; what it found wrong. */
export async function checkGuest(monitor: QmpClient, signal: AbortSignal): Promise<string[]> {
  const first = await readGuest(monitor, signal);
  const count = first.count + LAP_TURNS;
  const { badDisk, badRam, ioErrors } = await waitForCountAbove(monitor, { count, signal });
  return badDisk + badRam + ioErrors === 0 ? [] : [
    `the guest finds ${badRam} bad pages, ${badDisk} bad sectors, ${ioErrors} I/O errors`,
  ];
}

/** What a migration must not leave in the QEMU of a guest that stays. */
export async function remainsIn(qmp: QmpClient, signal: AbortSignal): Promise<string[]> {
  const jobs = await qmp.execute("query-jobs", {}, { signal });
  const nodes = await qmp.execute("query-named-block-nodes", { flat: true }, { signal });
  const objects = await qmp.execute("qom-list", { path: "/objects" }, { signal });
  const exports = await qmp.execute("query-block-exports", {}, { signal }) as { id: string }[];
  return [
    ...jobs.map(({ id }) => `job ${id} left`),
    ...nodes.flatMap((node) =>
      node["node-name"]?.startsWith("migrate-agent") ? [`node ${node["node-name"]} left`] : []
    ),
    ...objects.flatMap(({ name }) =>
      name.startsWith("migrate-agent") ? [`object ${name} left`] : []
    ),
    ...exports.map(({ id }) => `export ${id} left`),
  ];
}

/** How many descriptors of each kind a process holds. */
export async function countDescriptors(pid: number): Promise<Map<string, number>> {
  const counts = new Map<string, number>();
  for await (const { name } of Deno.readDir(`/proc/${pid}/fd`)) {
    const target = await Deno.readLink(`/proc/${pid}/fd/${name}`);
    const kind = /^(socket|pipe):/.exec(target)?.[1] ?? target;
    counts.set(kind, (counts.get(kind) ?? 0) + 1);
  }
  return counts;
}

/** What there is more of than before. */
export function addedDescriptors(
  before: ReadonlyMap<string, number>,
  after: ReadonlyMap<string, number>,
): string[] {
  return [...after].filter(([kind, count]) => count > (before.get(kind) ?? 0))
    .map(([kind, count]) => `descriptors: ${count} ${kind} instead of ${before.get(kind) ?? 0}`);
}
