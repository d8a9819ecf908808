// The disks of a Xen domain: which block node of its device model sees all that the guest writes. A
// disk can be there up to three times: emulated, by the device model's own PV backend (qdisk), and by
// blkback in the kernel. Decides it, or refuses with the reason; changes nothing.
// Specification: docs/xen.md, "Disks".

import { AgentError, quote } from "../base/errors.ts";
import { describeDisks, type DiskChoice } from "../guest/disks.ts";
import type { Disk } from "../guest/params.ts";
import type { BlockDeviceInfo, BlockInfo } from "../qmp/commands.ts";
import { isRecord } from "./xl.ts";
import type { DiskBackend } from "./xenstore.ts";

/** A disk in the domain's configuration (libxl's `device_disk`), as far as it is of interest here. */
export interface ConfiguredDisk {
  vdev: string;
  /** Null for a drive without a medium. */
  path: string | null;
  isCdrom: boolean;
  script: string | null;
}

export interface DomainDisks {
  disks: Disk[];
  /** The mirrored disks' PV backends as they are now: one that changes changes who writes. */
  uses: DiskUse[];
}

export interface DiskUse {
  vdev: string;
  connected: boolean;
}

export function readConfiguredDisks(config: Record<string, unknown>): ConfiguredDisk[] {
  const list = Array.isArray(config.disks) ? config.disks.filter(isRecord) : [];
  return list.map((disk) => ({
    vdev: String(disk.vdev),
    path: typeof disk.pdev_path === "string" && disk.pdev_path !== "" ? disk.pdev_path : null,
    isCdrom: disk.is_cdrom === 1,
    script: typeof disk.script === "string" ? disk.script : null,
  }));
}

/**
 * Describes the domain's disks under their names in the guest (`hda`, `xvdb`).
 * @throws AgentError `disk_not_mirrorable` (kind refused) with the reason and what to do
 */
export function describeDomainDisks(options: {
  configured: readonly ConfiguredDisk[];
  blocks: readonly BlockInfo[];
  nodes: BlockDeviceInfo[];
  backends: readonly DiskBackend[];
  choice: DiskChoice;
}): DomainDisks {
  const { configured, blocks, nodes, backends, choice } = options;
  const found = configured.map((disk) => {
    const backend = backends.find(({ vdev }) => vdev === disk.vdev);
    const seen = blocks.filter(({ inserted }) => inserted?.file === disk.path);
    const emulated = seen.find(({ device }) => device !== "");
    const paravirtual = seen.find(({ device }) => device === "");
    const block = (backend?.connected ? paravirtual : emulated) ?? emulated ?? paravirtual;
    return { disk, backend, emulated, paravirtual, block };
  });
  const disks = describeDisks(
    found.map(({ disk, block }) => ({
      device: disk.vdev,
      qdev: block?.qdev ?? disk.vdev,
      removable: disk.isCdrom,
      ...(block?.inserted && disk.path !== null ? { inserted: block.inserted } : {}),
    })),
    nodes,
    { choice, resolvePath: (path) => path },
  );
  const uses: DiskUse[] = [];
  for (const [at, place] of found.entries()) {
    const { disk: { vdev, path }, block, backend } = place;
    if (path !== null && !block && !isLeftOut(vdev, choice)) {
      refuse(vdev, "the device model does not have it: the guest reaches it past the device model");
    }
    if (disks[at]!.action !== "mirror") continue;
    checkServed(place);
    if (configured.some((other) => other.vdev !== vdev && other.path === path)) {
      refuse(vdev, `another disk of the domain has the same image ${quote(path!)}`);
    }
    uses.push({ vdev, connected: backend?.connected ?? false });
  }
  return { disks, uses };
}

/**
 * The guest has stopped: whether it wrote through the same door all the time.
 * @throws AgentError `disk_backend_changed` when a mirror may have missed something
 */
export function checkUnchanged(uses: readonly DiskUse[], backends: readonly DiskBackend[]): void {
  for (const { vdev, connected } of uses) {
    const now = backends.find((backend) => backend.vdev === vdev)?.connected ?? false;
    if (now === connected) continue;
    throw new AgentError(
      "disk_backend_changed",
      `While disk ${quote(vdev)} was mirrored, the guest ` +
        (now ? "began to use its PV driver for it" : "stopped using its PV driver for it") +
        ": what it wrote there has not been mirrored",
      { side: "source", hint: "start the migration again when the guest has booted" },
    );
  }
}

function checkServed(
  { disk: { vdev, script }, backend, emulated, paravirtual }: {
    disk: ConfiguredDisk;
    backend: DiskBackend | undefined;
    emulated: BlockInfo | undefined;
    paravirtual: BlockInfo | undefined;
  },
): void {
  if (script !== null && !/^(\/etc\/xen\/scripts\/)?block$/.test(script)) {
    refuse(vdev, `it is set up by the script ${quote(script)}`);
  }
  if (!backend) return;
  if (backend.domid !== 0) refuse(vdev, `it is served by the driver domain ${backend.domid}`);
  const isQdisk = backend.type === "qdisk";
  if (!isQdisk && (backend.connected || !emulated)) {
    refuse(
      vdev,
      "the guest's PV driver writes to it through blkback in the kernel, past the device model",
      `give it backendtype=qdisk in the domain's configuration and start the guest anew ` +
        `(or xen_platform_pci=0, so that it uses the emulated disk)`,
    );
  }
  if (isQdisk && backend.connected && emulated && paravirtual) {
    refuse(
      vdev,
      "the guest uses its PV driver for it and has not unplugged the emulated disk: both can write",
      "let the guest unplug its emulated disks (Linux: no xen_emul_unplug=never)",
    );
  }
}

/** An operator's word can only mean this disk by its name here: the device model has no other. */
function isLeftOut(vdev: string, { copyStorage, only, exclude }: DiskChoice): boolean {
  return !copyStorage || exclude.includes(vdev) || (only !== null && !only.includes(vdev));
}

function refuse(vdev: string, why: string, hint?: string): never {
  throw new AgentError("disk_not_mirrorable", `Cannot mirror disk ${quote(vdev)}: ${why}`, {
    kind: "refused",
    side: "source",
    hint: hint ?? `leave it out with --exclude-disks ${vdev} when both hosts can reach it`,
  });
}
