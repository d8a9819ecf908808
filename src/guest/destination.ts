// What the receiver's story asks of a hypervisor, whichever way the destination's QEMU comes to be:
// launched (launch.ts), adopted (adopt.ts), or started by the operator's command
// (launch_command.ts).

import type { Remain } from "../base/remains.ts";
import type { QmpClient } from "../qmp/client.ts";
import type { Disk, GuestParams } from "./params.ts";

/**
 * Registers how an effect is undone, at the moment from which it may exist. `undo` is called at most
 * once, newest first, only when the guest does not go on here.
 */
export type RegisterUndo = (
  what: string,
  undo: () => Promise<void>,
  /** The same for somebody who comes after this program's death; durable when the promise resolves. */
  remain?: Remain,
) => Promise<void>;

export interface TargetDisk {
  disk: Disk;
  /** Path at the destination; null for an empty drive. */
  path: string | null;
  /** Protocol driver that the path needs there: file or host_device. */
  protocol: "file" | "host_device";
  /** It will be made (true), or is there already. */
  create: boolean;
  /** A word for the operator, such as "backing chain copied flat". */
  note: string | null;
}

export interface DestinationPlan {
  /** The executable that will be started; null when somebody else starts it. */
  binary: string | null;
  qemuVersion: string;
  targets: TargetDisk[];
  warnings: string[];
  /** What only one guest can have here: its folder, or the socket of the QEMU that waits for it. */
  place: { kind: "folder" | "qmp"; path: string } | null;
}

/** A QEMU that waits in `-incoming defer`. */
export interface DestinationQemu {
  qmp: QmpClient;
  pid: number;
  /** Where it writes what it has to say; left out when somebody else knows. */
  logFile?: string;
  /**
   * Ends this QEMU, whose memory has stopped half-way, and starts another one on the same disks. Left
   * out: only whoever started it can.
   */
  restart?: (signal: AbortSignal) => Promise<DestinationQemu>;
}

export interface DestinationHost {
  /** Checks everything that can be checked; changes nothing. @throws AgentError (kind refused) */
  plan(params: GuestParams, signal: AbortSignal): Promise<DestinationPlan>;
  /** Makes what was planned. */
  start(
    params: GuestParams,
    options: { plan: DestinationPlan; onEffect: RegisterUndo; signal: AbortSignal },
  ): Promise<DestinationQemu>;
  /** Lets go of what only planning and starting needed. Whatever was started goes on. */
  close(): Promise<void>;
}
