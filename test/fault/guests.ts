// Where a guest runs after a fault, and whether it is whole: its own check of memory and disks.

import { QmpClient } from "../../src/qmp/client.ts";
import { readGuest, type TestVm, waitForCountAbove } from "../lib/vm.ts";
import type { Host } from "./host.ts";

/** Turns in which the guest looks at all that it has written. */
const LAP_TURNS = 20;

export interface Guests {
  running: ("source" | "destination")[];
  sourceState: string;
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
  const sourceState = vm.monitor.ended.aborted ? "gone" : await vm.runState(signal);
  const running: Guests["running"] = sourceState === "running" ? ["source"] : [];
  let arrived: QmpClient | null = null;
  const path = await destination.guestQmp();
  if (path !== null) {
    arrived = await QmpClient.connect(path, { signal });
    const { running: runs } = await arrived.execute("query-status", {}, { signal });
    if (runs) running.push("destination");
  }
  return {
    running,
    sourceState,
    destinationQmp: path,
    monitor: running[0] === "destination" ? arrived : vm.monitor,
    release: async () => await arrived?.close(),
  };
}

/** Waits until the guest has been around once; what it found wrong. */
export async function checkGuest(
  { running, monitor }: Pick<Guests, "running" | "monitor">,
  signal: AbortSignal,
): Promise<string[]> {
  const first = await readGuest(monitor!, signal);
  const count = first.count + LAP_TURNS;
  const { badDisk, badRam, ioErrors } = await waitForCountAbove(monitor!, { count, signal });
  return badDisk + badRam + ioErrors === 0 ? [] : [
    `the guest at the ${running[0]} finds ${badRam} bad pages, ${badDisk} bad sectors, ` +
    `${ioErrors} I/O errors`,
  ];
}
