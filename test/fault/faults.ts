// The faults of the matrix: what each does to the two hosts while an agent stands still.

import { delay } from "../../src/base/deadline.ts";
import type { Side } from "../../src/base/errors.ts";
import type { Agent } from "../lib/agents.ts";
import type { TestNet } from "../lib/netns.ts";
import type { TestVm } from "../lib/vm.ts";
import type { Host } from "./host.ts";

export const FAULTS = [
  "kill sender",
  "kill receiver",
  "kill source QEMU",
  "kill destination QEMU",
  "cut",
  "cut for 5 s",
  "stop peer",
  "disk full",
] as const;
export type Fault = (typeof FAULTS)[number];

/** How long a link is cut for, and a peer stopped. */
export const PASSING_MS = 5000;

export interface Victims {
  sender: Agent;
  receiver: Agent;
  /** The side that stands still. */
  holder: Side;
  vm: TestVm;
  net: TestNet;
  destination: Host;
}

/** Returns when it has struck; what passes by itself does so later. */
export async function strike(fault: Fault, victims: Victims, signal: AbortSignal): Promise<void> {
  const { sender, receiver, holder, vm, net, destination } = victims;
  const later = (work: () => unknown) =>
    delay(PASSING_MS, signal).then(work).catch((error) => {
      if (!signal.aborted) throw error;
    });
  switch (fault) {
    case "kill sender":
      return signalIfThere(sender, "SIGKILL");
    case "kill receiver":
      return signalIfThere(receiver, "SIGKILL");
    case "kill source QEMU":
      signalIfThere(vm, "SIGKILL");
      await vm.ended;
      return;
    case "kill destination QEMU":
      return await destination.killQemu();
    case "cut":
      return await net.cut(signal);
    case "cut for 5 s":
      await net.cut(signal);
      later(() => net.restore(signal));
      return;
    case "stop peer": {
      const peer = holder === "source" ? receiver : sender;
      signalIfThere(peer, "SIGSTOP");
      later(() => signalIfThere(peer, "SIGCONT"));
      return;
    }
    case "disk full":
      return await destination.fillDisk(signal);
  }
}

/** A process may have ended in the meantime. */
export function signalIfThere(
  process: { kill(signo: Deno.Signal): void },
  signo: Deno.Signal,
): void {
  try {
    process.kill(signo);
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
  }
}
