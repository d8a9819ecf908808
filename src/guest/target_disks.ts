// The destination's disks: which path each gets, and whether it may be made or opened there. Changes
// nothing.

import { type AgentError, quote } from "../base/errors.ts";
import { checkPathInside, QEMU_DATA_FOLDERS } from "./command_line/policy.ts";
import type { TargetDisk } from "./destination.ts";
import { isNamed } from "./disks.ts";
import { refuseForeignReferences } from "./image_references.ts";
import {
  checkReusedSize,
  freeBytes,
  realPathOrNull,
  refusal,
  refuseInUse,
  statOrNull,
} from "./image_files.ts";
import type { Disk } from "./params.ts";

export interface DiskPlacement {
  diskDir: string | null;
  /** `--disk NAME=PATH` */
  diskPaths: readonly { name: string; path: string }[];
  /** `--path-map FROM=TO`, longest FROM first wins. */
  pathMaps: readonly { from: string; to: string }[];
  reuseDisks: boolean;
  /** Further folders in which the guest's disks may be, besides those named above. */
  allowDirs: readonly string[];
}

/** A source path as it is called here; null when no rule says so. */
export function mapPath(path: string, placement: DiskPlacement): string | null {
  const maps = [...placement.pathMaps].sort((a, b) => b.from.length - a.from.length);
  for (const { from, to } of maps) {
    const prefix = from.endsWith("/") ? from : from + "/";
    if (path === from) return to;
    if (path.startsWith(prefix)) {
      return (to.endsWith("/") ? to : to + "/") + path.slice(prefix.length);
    }
  }
  return null;
}

/**
 * Decides where every disk goes and checks that it can; changes nothing.
 * @throws AgentError (kind refused, side destination)
 */
export async function planTargets(
  disks: readonly Disk[],
  placement: DiskPlacement,
): Promise<TargetDisk[]> {
  refuseUnknownNames(disks, placement);
  const targets: TargetDisk[] = [];
  for (const disk of disks) targets.push(await planTarget(disk, placement));
  refuseSharedTargets(targets);
  await refuseFullDisk(targets);
  return targets;
}

async function planTarget(disk: Disk, placement: DiskPlacement): Promise<TargetDisk> {
  const path = choosePath(disk, placement);
  const base = { disk, protocol: "file" as const, create: false };
  if (disk.action === "empty" || path === null) {
    const note = disk.path === null ? null : `medium ${quote(disk.path)} left out`;
    return { ...base, path: null, note };
  }
  const info = await statOrNull(path);
  const protocol = info?.isBlockDevice ? "host_device" as const : "file" as const;
  if (disk.action === "present" || disk.action === "shared") {
    if (info) {
      await refuseForeignReferences(
        { path, format: disk.format },
        (file) => isAllowed(file, { disk, placement }),
      );
      return { ...base, protocol, path, note: null };
    }
    if (disk.action === "present" && disk.removable) {
      return { ...base, path: null, note: `medium ${quote(path)} is not here: left out` };
    }
    throw refusal(
      "disk_missing",
      `Disk ${quote(disk.name)} is taken to be shared, but ${quote(path)} is not here`,
      disk.read_only
        ? "copy it here first, or say where it is with --disk or --path-map"
        : "send with -q/--copy-storage, or say where it is with --disk or --path-map",
    );
  }
  const note = disk.backing.length > 0 ? "backing chain copied flat" : null;
  if (!info) return { ...base, path, create: true, note };
  if (!placement.reuseDisks && !info.isBlockDevice) {
    throw refusal(
      "target_exists",
      `Cannot create target disk ${quote(path)}: it exists already`,
      "remove it, choose another place, or use --reuse-disks to overwrite it",
    );
  }
  if (info.isBlockDevice && !placement.reuseDisks) {
    throw refusal(
      "target_exists",
      `Target ${quote(path)} for disk ${
        quote(disk.name)
      } is a block device: its contents would be lost`,
      "use --reuse-disks if that is meant",
    );
  }
  await refuseInUse(path);
  await checkReusedSize(disk, { path, isBlockDevice: info.isBlockDevice === true });
  await refuseForeignReferences({ path, format: disk.format }, () => false);
  return { ...base, protocol, path, note };
}

/** --disk, then --path-map, then --disk-dir, then (for what need not be copied) the same path. */
function choosePath(disk: Disk, placement: DiskPlacement): string | null {
  const given = placement.diskPaths.find(({ name }) => isNamed(disk, name));
  if (given) return given.path;
  if (disk.path === null) return null;
  const mapped = mapPath(disk.path, placement);
  if (mapped !== null) return refuseOutside(mapped, { disk, placement });
  if (disk.action !== "mirror") return refuseOutside(disk.path, { disk, placement });
  const file = disk.path.slice(disk.path.lastIndexOf("/") + 1);
  if (placement.diskDir !== null) {
    return refuseOutside(`${placement.diskDir.replace(/\/+$/, "")}/${file}`, { disk, placement });
  }
  throw refusal(
    "no_place_for_disk",
    `No place was named for disk ${quote(disk.name)} (${quote(disk.path)})`,
    `give the receiver --disk-dir DIR, --disk ${disk.name}=PATH or --path-map FROM=TO`,
  );
}

/** A path that the peer has a part in must stay in the folders that this receiver was given. */
function refuseOutside(path: string, context: { disk: Disk; placement: DiskPlacement }): string {
  if (isAllowed(path, context)) return path;
  const { disk, placement } = context;
  const folders = allowedFolders(placement);
  const missing = folders.find((folder) =>
    path.startsWith(folder + "/") && realPathOrNull(folder) === null
  );
  if (missing !== undefined) throw noSuchFolder(path, missing);
  throw refusal(
    "disk_outside_folders",
    `Disk ${quote(disk.name)} would be ${quote(path)}, outside the folders allowed here ` +
      `(${folders.join(", ") || "none"})`,
    `allow its folder with --allow-dir, or name the disk with --disk ${disk.name}=PATH`,
  );
}

function isAllowed(
  path: string,
  { disk, placement }: { disk: Disk; placement: DiskPlacement },
): boolean {
  const folders = allowedFolders(placement);
  // A flash chip's firmware comes from QEMU's own data on either host.
  const readable = disk.action === "present" ? [...folders, ...QEMU_DATA_FOLDERS] : folders;
  return checkPathInside(path, readable, { realPath: realPathOrNull }) !== null;
}

function allowedFolders({ diskDir, pathMaps, allowDirs }: DiskPlacement): string[] {
  return [...(diskDir === null ? [] : [diskDir]), ...pathMaps.map(({ to }) => to), ...allowDirs];
}

function refuseUnknownNames(disks: readonly Disk[], placement: DiskPlacement): void {
  for (const { name, path } of placement.diskPaths) {
    if (disks.some((disk) => isNamed(disk, name))) continue;
    throw refusal(
      "unknown_disk",
      `--disk ${name}=${path}: the guest has no disk ${quote(name)}`,
      `it has ${disks.map((disk) => disk.name).join(", ") || "none"}`,
    );
  }
}

function refuseSharedTargets(targets: readonly TargetDisk[]): void {
  const taken = new Map<string, string>();
  for (const { disk, path } of targets) {
    if (path === null || disk.action !== "mirror") continue;
    const other = taken.get(path);
    if (other !== undefined) {
      throw refusal(
        "target_twice",
        `Disks ${quote(other)} and ${quote(disk.name)} would both go to ${quote(path)}`,
        "name a place for one of them with --disk NAME=PATH",
      );
    }
    taken.set(path, disk.name);
  }
}

/** Compares what the sources occupy with what is free, per file system. */
async function refuseFullDisk(targets: readonly TargetDisk[]): Promise<void> {
  const needs = new Map<number, { folder: string; bytes: number }>();
  for (const { disk, path, create } of targets) {
    if (!create || path === null) continue;
    const folder = path.slice(0, path.lastIndexOf("/")) || "/";
    const info = await statOrNull(folder);
    if (!info?.isDirectory) throw noSuchFolder(path, folder);
    const before = needs.get(info.dev)?.bytes ?? 0;
    needs.set(info.dev, { folder, bytes: before + disk.allocated_bytes });
  }
  for (const { folder, bytes } of needs.values()) {
    const free = await freeBytes(folder);
    if (free >= bytes) continue;
    throw refusal(
      "disk_full",
      `Not enough room in ${quote(folder)}: ${bytes} bytes needed, ${free} free`,
    );
  }
}

function noSuchFolder(path: string, folder: string): AgentError {
  return refusal(
    "no_such_folder",
    `Cannot create target disk ${quote(path)}: no folder ${quote(folder)}`,
    "make the folder first",
  );
}
