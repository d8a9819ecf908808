// The guest's disks on the destination's command line: every drive and block node of the source gets
// the image of this host that was chosen for its disk, with the medium that is in it now.

import { AgentError, quote } from "../../base/errors.ts";
import type { Disk } from "../params.ts";
import { BlockNodes, type Image } from "./block_nodes.ts";
import type { Destination } from "./destination.ts";
import { type Drive, findDrives } from "./drives.ts";
import {
  fateOfFormatKey,
  fateOfProtocolKey,
  FORMATS,
  isDriveKey,
  refuseSecretsAndPrograms,
} from "./image_options.ts";
import { KeyValues } from "./keyval.ts";
import { fromArgs, type Option, refuse } from "./options.ts";

/** Drives that QEMU makes by itself: a medium put in later needs an option of its own. */
const DEFAULT_DRIVES: readonly [RegExp, Record<string, string>][] = [
  [/^ide\d-cd0$/, { if: "ide", index: "2", media: "cdrom" }],
  [/^floppy0$/, { if: "floppy", index: "0" }],
];

export interface DiskChanges {
  /** What stands in an option's place: nothing, itself, or another. */
  readonly replacements: ReadonlyMap<Option, readonly Option[]>;
  /** Options for media that were put in after the start. */
  readonly added: readonly Option[];
}

/**
 * Rewrites `-drive`, its shorthands and `-blockdev`; `-device` options lose or get their `drive=` in
 * place.
 * @throws AgentError `option_refused`, `disk_not_launched`
 */
export function rewriteDisks(options: readonly Option[], destination: Destination): DiskChanges {
  for (const option of options) {
    if (option.name === "drive" || option.name === "blockdev") refuseSecretsAndPrograms(option);
  }
  const drives = findDrives(options, destination.params.machine);
  const nodes = new BlockNodes(options);
  const replacements = new Map<Option, readonly Option[]>();
  const added: Option[] = [];
  for (const disk of destination.params.disks) {
    const image = chooseImage(disk, destination);
    const device = findDevice(disk, options);
    const backend = device?.args?.get("drive");
    const drive = drives.find(({ id }) => id === disk.device || id === backend);
    const node = [disk.node_name, backend ?? ""].find((name) => nodes.has(name));
    if (drive) {
      replacements.set(drive.option, [rewriteDrive(drive, { disk, image })]);
    } else if (node !== undefined && image) {
      nodes.replaceImage(node, image, destination);
    } else if (node !== undefined) {
      nodes.drop(node);
      device?.args?.delete("drive");
      if (!disk.removable || !device) refuseDisk(disk, "its medium cannot be left out");
    } else if (image) {
      added.push(addMedium({ disk, image, device }));
    }
  }
  for (const { option, args, id } of drives) {
    if (replacements.has(option)) continue;
    if (args.pairs.some(({ key }) => key === "file" || key.startsWith("file."))) {
      // QEMU forgets a drive when its device is taken out of the running guest.
      destination.warn(`drive ${quote(id)} is left out: no device of the guest uses it any more`);
      replacements.set(option, []);
      continue;
    }
    replacements.set(option, [fromArgs("drive", checkedDriveArgs(option, args, null))]);
  }
  for (const option of nodes.finish(destination)) replacements.set(option, []);
  for (const option of options) {
    const isUsedNode = option.name === "blockdev" && !replacements.has(option);
    if (isUsedNode) replacements.set(option, [option]);
  }
  return { replacements, added };
}

function chooseImage(disk: Disk, { settings }: Destination): Image | null {
  const chosen = settings.disks.get(disk.name);
  if (chosen === undefined && disk.action !== "empty") {
    refuseDisk(disk, "no image was chosen for it here");
  }
  if (!chosen || disk.action === "empty") {
    if (disk.action !== "empty" && !disk.removable) refuseDisk(disk, "it has no image here");
    return null;
  }
  if (!chosen.path.startsWith("/")) refuseDisk(disk, `${quote(chosen.path)} is not absolute`);
  // It becomes the name of a driver, and some of those open what the path is not.
  if (!FORMATS.has(disk.format)) refuseDisk(disk, `its format is ${quote(disk.format)}`);
  return {
    path: chosen.path,
    protocol: chosen.protocol,
    format: disk.format,
    keepBacking: disk.action !== "mirror",
    readOnly: disk.read_only,
    windowBytes: isWindow(disk, chosen.protocol) ? disk.virtual_size_bytes : null,
  };
}

/** A block device may be larger than the disk: the guest must see the disk's own size. */
function isWindow({ action, format }: Disk, protocol: Image["protocol"]): boolean {
  return action === "mirror" && format === "raw" && protocol === "host_device";
}

/** The `-device` whose drive this is, by the id in the disk's frontend. */
function findDevice(disk: Disk, options: readonly Option[]): Option | undefined {
  const id = /^(?:\/machine\/peripheral\/)?([^/]+)(?:\/virtio-backend)?$/.exec(disk.qdev ?? "")
    ?.[1];
  if (id === undefined) return undefined;
  return options.find(({ name, args }) => name === "device" && args?.get("id") === id);
}

function rewriteDrive(
  { option, args }: Drive,
  { disk, image }: { disk: Disk; image: Image | null },
): Option {
  const changed = checkedDriveArgs(option, args, image);
  // Which of the two the drive is belongs to the medium, and that may be another one by now.
  if (disk.removable || image?.readOnly) changed.delete("readonly");
  if (disk.removable || image?.readOnly) changed.delete("read-only");
  if (image) {
    if (image.readOnly) changed.set("readonly", "on");
    changed.set("file", image.path);
    changed.set("format", image.format);
    if (image.windowBytes !== null) changed.set("size", String(image.windowBytes));
  }
  return fromArgs("drive", changed);
}

/** The arguments without the source's image; only what is known, and for a drive that may be empty. */
function checkedDriveArgs(option: Option, args: KeyValues, image: Image | null): KeyValues {
  const pairs = args.pairs.filter(({ key }) => {
    if (isDriveKey(key)) return true;
    if (key === "file" || key === "format" || key === "driver") return false;
    const fate = key.startsWith("file.")
      ? fateOfProtocolKey(key.slice("file.".length))
      : fateOfFormatKey(key, {
        driver: image?.format ?? "qcow2", // an empty drive may have had any
        isCopy: !image?.keepBacking,
      });
    if (fate === "unknown") refuse(option, `has the part ${quote(key)}, not supported here`);
    // The parts of an image without an image would make QEMU look for one.
    return fate === "keep" && image !== null;
  });
  return new KeyValues(pairs);
}

/** An option that puts the medium into a drive that was empty on the source's command line. */
function addMedium(
  { disk, image, device }: { disk: Disk; image: Image; device: Option | undefined },
): Option {
  if (device && disk.removable && device.args!.get("drive") === undefined) {
    const nodeName = `medium-${device.args!.get("id")}`.slice(0, 31); // QEMU's limit for node names
    device.args!.set("drive", nodeName);
    return fromArgs(
      "blockdev",
      KeyValues.of({
        driver: image.format,
        "node-name": nodeName,
        "read-only": disk.read_only ? "on" : "off",
        "file.driver": image.protocol,
        "file.filename": image.path,
      }),
    );
  }
  const place = DEFAULT_DRIVES.find(([name]) => name.test(disk.device))?.[1];
  if (!place || !disk.removable) refuseDisk(disk, "it is not on QEMU's command line");
  return fromArgs(
    "drive",
    KeyValues.of({
      ...place,
      file: image.path,
      format: image.format,
      ...(disk.read_only ? { readonly: "on" } : {}),
    }),
  );
}

function refuseDisk(disk: Disk, why: string): never {
  throw new AgentError(
    "disk_not_launched",
    `Cannot start the guest here with disk ${quote(disk.name)}: ${why}`,
    {
      kind: "refused",
      side: "destination",
      hint: "start the destination's QEMU yourself (receive --adopt-qmp or --launch-command)",
    },
  );
}
