// The guest's disks, as QEMU tells them: names, images, sizes; and what a migration does with each.
// Nothing is assumed about buses or names. Specification: QMP `query-block` and
// `query-named-block-nodes`.

import { AgentError, quote } from "../base/errors.ts";
import type { BlockDeviceInfo, BlockInfo, ImageInfo } from "../qmp/commands.ts";
import type { Disk } from "./params.ts";

/** Image formats that a target can be made in. */
const FORMATS = new Set(["raw", "qcow2", "qcow", "qed", "vdi", "vmdk", "vpc", "vhdx", "parallels"]);
/** Protocol drivers whose image is this host's alone. */
const LOCAL_PROTOCOLS = new Set(["file", "host_device", "host_cdrom"]);
const FLOPPY = /floppy|fdc/i;
const PFLASH = /flash/i;

export interface DiskChoice {
  /** Mirror the writable local disks (`--copy-storage`). */
  copyStorage: boolean;
  /** Only these, by name or file name; null for all. */
  only: string[] | null;
  exclude: string[];
}

/**
 * Describes every drive that the guest can see. `resolvePath` makes the paths that QEMU was given
 * absolute.
 * @throws AgentError (kind refused) naming the disk that cannot be moved and why
 */
export function describeDisks(
  blocks: BlockInfo[],
  nodes: BlockDeviceInfo[],
  options: { choice: DiskChoice; resolvePath: (path: string) => string },
): Disk[] {
  const disks = blocks
    .filter((block) => block.qdev !== undefined || block.inserted !== undefined)
    .map((block) => describeDisk(block, nodes, options.resolvePath));
  makeNamesUnique(disks);
  choose(disks, options.choice);
  return disks;
}

/** Whether an operator's word for a disk means this one: its name, device, id, node or file name. */
export function isNamed(disk: Disk, word: string): boolean {
  return [disk.name, disk.device, disk.qdev, disk.node_name, disk.path, baseName(disk.path ?? "")]
    .includes(word) && word !== "";
}

function describeDisk(
  block: BlockInfo,
  nodes: BlockDeviceInfo[],
  resolvePath: (path: string) => string,
): Disk {
  const { inserted } = block;
  const name = block.device || shortId(block.qdev) || inserted?.["node-name"] || "disk";
  const common = {
    name,
    device: block.device,
    qdev: block.qdev ?? null,
    removable: block.removable,
  };
  if (!inserted) {
    return {
      ...common,
      node_name: "",
      kind: FLOPPY.test(name) ? "floppy" : "cdrom",
      action: "empty",
      format: "",
      protocol: "",
      path: null,
      read_only: true,
      virtual_size_bytes: 0,
      allocated_bytes: 0,
      cluster_size_bytes: 0,
      backing: [],
    };
  }
  const file = plainName(inserted.file);
  const sameFile = nodes.filter((node) => plainName(node.file) === file);
  const format = FORMATS.has(inserted.drv)
    ? inserted.drv
    : sameFile.find((node) => FORMATS.has(node.drv))?.drv ??
      (LOCAL_PROTOCOLS.has(inserted.drv) ? "raw" : inserted.drv);
  const protocol = sameFile.find((node) => LOCAL_PROTOCOLS.has(node.drv))?.drv ??
    sameFile.find((node) => !FORMATS.has(node.drv) && node.drv !== "throttle")?.drv ?? inserted.drv;
  const named = !file.startsWith("json:");
  const image = imageBelowFilter(inserted.image, file);
  return {
    ...common,
    node_name: inserted["node-name"] ?? "",
    kind: kindOf(block),
    action: "mirror",
    format,
    protocol,
    path: LOCAL_PROTOCOLS.has(protocol) && named ? resolvePath(file) : null,
    read_only: inserted.ro,
    virtual_size_bytes: image["virtual-size"],
    allocated_bytes: allocatedBytes(image),
    cluster_size_bytes: image["cluster-size"] ?? 0,
    backing: backingPaths(image, resolvePath),
  };
}

/**
 * The file's own name: QEMU writes `json:{...}` where the name alone would not open the same image,
 * as with a raw image's `size` or another backing file.
 */
function plainName(file: string): string {
  if (!file.startsWith("json:")) return file;
  interface Layer {
    file?: Layer | string;
    filename?: unknown;
  }
  let layer = JSON.parse(file.slice("json:".length)) as Layer;
  while (typeof layer.file === "object") layer = layer.file;
  return typeof layer.filename === "string" ? layer.filename : file;
}

/** QEMU 7.2 tells what is below a filter (`throttle`) as if it were a backing image. */
function imageBelowFilter(image: ImageInfo, file: string): ImageInfo {
  const below = image["backing-image"];
  return below && image.filename !== file && below.filename === file ? below : image;
}

function choose(disks: Disk[], choice: DiskChoice): void {
  for (const word of [...(choice.only ?? []), ...choice.exclude]) {
    if (disks.some((disk) => isNamed(disk, word))) continue;
    throw new AgentError("unknown_disk", `The guest has no disk ${quote(word)}`, {
      kind: "refused",
      side: "source",
      hint: `it has ${disks.map((disk) => disk.name).join(", ") || "none"}`,
    });
  }
  for (const disk of disks) {
    if (disk.action === "empty") continue;
    const excluded = choice.exclude.some((word) => isNamed(disk, word)) ||
      (choice.only !== null && !choice.only.some((word) => isNamed(disk, word)));
    if (disk.read_only) disk.action = "present";
    else if (!choice.copyStorage || excluded) disk.action = "shared";
    else checkMirrorable(disk);
  }
}

function checkMirrorable(disk: Disk): void {
  const refuse = (why: string, hint: string) => {
    throw new AgentError("disk_not_mirrorable", `Cannot mirror disk ${quote(disk.name)}: ${why}`, {
      kind: "refused",
      side: "source",
      hint,
    });
  };
  if (disk.path === null) {
    refuse(
      `its image is not a plain local file or block device (driver '${disk.protocol}')`,
      `leave it out with --exclude-disks ${disk.name} when both hosts can reach it`,
    );
  }
  if (!FORMATS.has(disk.format)) {
    refuse(
      `no target can be made in its format '${disk.format}'`,
      "convert the image to raw or qcow2",
    );
  }
}

function kindOf(block: BlockInfo): Disk["kind"] {
  const words = `${block.device} ${block.qdev ?? ""}`;
  if (PFLASH.test(words)) return "pflash";
  if (!block.removable) return "disk";
  return FLOPPY.test(words) ? "floppy" : "cdrom";
}

/** The operator's id in a frontend's QOM path; empty when QEMU made the name up. */
function shortId(qdev: string | undefined): string {
  return /^(?:\/machine\/peripheral\/)?([^/]+)(?:\/virtio-backend)?$/.exec(qdev ?? "")?.[1] ??
    /^\/machine\/([^/]*flash[^/]*)$/.exec(qdev ?? "")?.[1] ?? "";
}

function makeNamesUnique(disks: Disk[]): void {
  for (const disk of disks) {
    const same = disks.filter((other) => other.name === disk.name);
    if (same.length > 1) same.slice(1).forEach((other, at) => other.name += `.${at + 1}`);
  }
}

function allocatedBytes(image: ImageInfo): number {
  const backing = image["backing-image"];
  return (image["actual-size"] ?? 0) + (backing ? allocatedBytes(backing) : 0);
}

function backingPaths(image: ImageInfo, resolvePath: (path: string) => string): string[] {
  const backing = image["backing-image"];
  return backing ? [resolvePath(backing.filename), ...backingPaths(backing, resolvePath)] : [];
}

function baseName(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}
