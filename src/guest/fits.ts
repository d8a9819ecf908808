// Whether a QEMU that waits in `-incoming defer` is the same machine as the guest's.

import { AgentError, quote } from "../base/errors.ts";
import type { QmpClient } from "../qmp/client.ts";
import { describeDisks } from "./disks.ts";
import { queryMachine } from "./machine_state.ts";
import type { Disk, QemuParams } from "./params.ts";

/**
 * Compares state, architecture, machine type, memory, processors and disks. Gives the waiting
 * QEMU's own disks, keyed by the guest's disk names.
 * @throws AgentError `qemu_does_not_fit` (kind refused) that names the first difference
 */
export async function checkFits(
  qmp: QmpClient,
  options: { params: QemuParams; resolvePath: (path: string) => string; signal: AbortSignal },
): Promise<Map<string, Disk>> {
  const { params, signal } = options;
  const { status, arch, machine, vcpus, memoryBytes, blocks, nodes } = await queryMachine(
    qmp,
    signal,
  );
  if (status.status !== "inmigrate") {
    refuse(
      `its state is '${status.status}', not 'inmigrate'`,
      "start it with -incoming defer and never use it before",
    );
  }
  if (arch !== params.arch) refuse(`it is a ${arch}, the guest a ${params.arch}`);
  if (machine !== params.machine) {
    refuse(`its machine type is '${machine}', the guest's '${params.machine}'`);
  }
  if (memoryBytes !== params.memory_bytes) {
    refuse(`it has ${memoryBytes} bytes of memory, the guest ${params.memory_bytes}`);
  }
  if (vcpus !== params.vcpus) refuse(`it has ${vcpus} processors, the guest ${params.vcpus}`);
  const disks = describeDisks(blocks, nodes, {
    choice: { copyStorage: false, only: null, exclude: [] },
    resolvePath: options.resolvePath,
  });
  return matchDisks(params.disks, disks);
}

function matchDisks(wanted: readonly Disk[], present: readonly Disk[]): Map<string, Disk> {
  const matched = new Map<string, Disk>();
  for (const disk of wanted) {
    const same = present.find((other) => disk.qdev !== null && other.qdev === disk.qdev) ??
      present.find((other) => other.name === disk.name);
    if (!same) refuse(`it has no disk ${quote(disk.name)}`);
    const sizeMatters = disk.action === "mirror" || disk.action === "shared";
    if (sizeMatters && same.path === null) refuse(`its disk ${quote(disk.name)} is empty`);
    if (sizeMatters && same.virtual_size_bytes !== disk.virtual_size_bytes) {
      refuse(
        `its disk ${quote(disk.name)} has ${same.virtual_size_bytes} bytes, ` +
          `the guest's ${disk.virtual_size_bytes}`,
      );
    }
    if (same.path !== null && same.read_only !== disk.read_only) {
      const word = (readOnly: boolean) => readOnly ? "read-only" : "writable";
      refuse(
        `its disk ${quote(disk.name)} is ${word(same.read_only)}, ` +
          `the guest's ${word(disk.read_only)}`,
      );
    }
    matched.set(disk.name, same);
  }
  return matched;
}

function refuse(difference: string, hint?: string): never {
  throw new AgentError(
    "qemu_does_not_fit",
    `The destination's QEMU does not fit the guest: ${difference}`,
    { kind: "refused", side: "destination", ...(hint ? { hint } : {}) },
  );
}
