// The machine that a QEMU shows, asked of it in one go: the same questions for a guest that shall move
// and for the QEMU that shall take it in.

import type { QmpClient } from "../qmp/client.ts";
import type { BlockDeviceInfo, BlockInfo, StatusInfo } from "../qmp/commands.ts";

export interface MachineState {
  status: StatusInfo;
  /** QEMU's target name: `x86_64`. */
  arch: string;
  /** The machine type with its version, never an alias: `pc-i440fx-7.2`. */
  machine: string;
  vcpus: number;
  memoryBytes: number;
  blocks: BlockInfo[];
  nodes: BlockDeviceInfo[];
}

export async function queryMachine(qmp: QmpClient, signal: AbortSignal): Promise<MachineState> {
  const [status, target, cpus, memory, type, blocks, nodes] = await Promise.all([
    qmp.execute("query-status", {}, { signal }),
    qmp.execute("query-target", {}, { signal }),
    qmp.execute("query-cpus-fast", {}, { signal }),
    qmp.execute("query-memory-size-summary", {}, { signal }),
    qmp.execute("qom-get", { path: "/machine", property: "type" }, { signal }),
    qmp.execute("query-block", {}, { signal }),
    qmp.execute("query-named-block-nodes", { flat: true }, { signal }),
  ]);
  return {
    status,
    arch: target.arch,
    machine: String(type).replace(/-machine$/, ""),
    vcpus: cpus.length,
    memoryBytes: memory["base-memory"],
    blocks,
    nodes,
  };
}
