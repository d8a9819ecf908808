// What describes a guest to the other host: the document that crosses the `params` stream, and its
// check. Everything in it is hostile until this schema has passed it, and bounded after.
// Specification: docs/protocol.md, "The params document".

import * as v from "valibot";
import { AgentError, quote } from "../base/errors.ts";

const text = (max: number) => v.pipe(v.string(), v.maxLength(max), v.regex(/^\P{Cc}*$/u));
const path = text(4096);
const name = v.pipe(text(256), v.minLength(1));
const bytes = v.pipe(v.number(), v.safeInteger(), v.minValue(0));

/** What happens to a disk in this migration. */
export const DISK_ACTIONS = [
  /** Copied to a target at the destination. */
  "mirror",
  /** Taken to be the same storage on both hosts: opened there under its mapped path. */
  "shared",
  /** Read-only medium that must be present at the destination under its mapped path. */
  "present",
  /** A removable drive without a medium, at the source or only at the destination. */
  "empty",
] as const;

export const DiskSchema = v.object({
  /** What people call it: the device (`ide0-hd0`), else the frontend's id, else the node name. */
  name,
  /** QEMU's BlockBackend name; empty for `-blockdev` disks. */
  device: text(256),
  /** Top node of the disk's graph at the source. */
  node_name: text(256),
  /** The frontend: a device id or a QOM path; null when no frontend is attached. */
  qdev: v.nullable(text(1024)),
  kind: v.picklist(["disk", "cdrom", "floppy", "pflash"]),
  action: v.picklist(DISK_ACTIONS),
  /** Image format (QEMU driver name): raw, qcow2, ... Empty for an empty drive. */
  format: text(64),
  /** Protocol driver below the format: file, host_device, nbd, ... */
  protocol: text(64),
  /** Path of the image at the source; null for an empty drive or a protocol without paths. */
  path: v.nullable(path),
  read_only: v.boolean(),
  removable: v.boolean(),
  /** Virtual size in bytes, exact. */
  virtual_size_bytes: bytes,
  /** Bytes that the image and its backing chain occupy at the source. */
  allocated_bytes: bytes,
  /** qcow2's cluster size in bytes, 0 where there is none. */
  cluster_size_bytes: bytes,
  /** Paths of the backing files, top to bottom; copied flat into one image. */
  backing: v.pipe(v.array(path), v.maxLength(200)),
});

/** What every hypervisor's guest has. */
const COMMON = {
  /** The guest's name: `-name`, else its UUID, else `guest`; for Xen the domain's name. */
  name,
  uuid: v.nullable(v.pipe(text(36), v.regex(/^[0-9a-f-]{36}$/i))),
  /** Whether the guest ran when the migration began: decides what happens after the handover. */
  running: v.boolean(),
  vcpus: v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(65536)),
  memory_bytes: bytes,
  disks: v.pipe(
    v.array(DiskSchema),
    v.maxLength(256),
    // Everything that is decided about a disk is kept under its name.
    v.check((disks) => new Set(disks.map((disk) => disk.name)).size === disks.length, "name twice"),
    // What may only be read here must not be called writable.
    v.check(
      (disks) => disks.every((disk) => disk.action !== "present" || disk.read_only),
      "present, but not read-only",
    ),
  ),
};

const QemuParamsSchema = v.object({
  ...COMMON,
  hypervisor: v.literal("qemu"),
  /** The machine type with its version, never an alias: `pc-i440fx-7.2`. */
  machine: name,
  /** `x86_64`, `aarch64`, ...: QEMU's target name. */
  arch: v.pipe(text(32), v.regex(/^[a-z0-9_]+$/)),
  qemu: v.object({
    version: v.pipe(text(64), v.regex(/^\d+\.\d+\.\d+$/)),
    package: text(256),
    /** The source QEMU's executable (path at the source; a hint for choosing the same one). */
    binary: path,
    /** Its arguments, without argv[0]; empty when they could not be read (adopt and command only). */
    argv: v.pipe(v.array(v.pipe(v.string(), v.maxLength(65536))), v.maxLength(4096)),
  }),
  /** Ids of devices that were plugged in after the start: no command line can bring them back. */
  hot_plugged: v.pipe(v.array(text(256)), v.maxLength(1024)),
});

const XenParamsSchema = v.object({
  ...COMMON,
  hypervisor: v.literal("xen"),
  xen: v.object({
    /** The source's Xen: `4.17.5`. */
    version: v.pipe(text(64), v.regex(/^\d+\.\d+/)),
    /** The domain's configuration as libxl keeps it (`xl list -l`); the receiver takes it apart. */
    config: v.record(v.string(), v.unknown()),
  }),
});

export const ParamsSchema = v.variant("hypervisor", [QemuParamsSchema, XenParamsSchema]);

export type Disk = v.InferOutput<typeof DiskSchema>;
export type QemuParams = v.InferOutput<typeof QemuParamsSchema>;
export type XenParams = v.InferOutput<typeof XenParamsSchema>;
export type GuestParams = QemuParams | XenParams;

/** @throws AgentError `bad_params` (kind refused) that names the first thing wrong */
export function parseParams(text: string): GuestParams {
  let document: unknown;
  try {
    document = JSON.parse(text);
  } catch {
    throw badParams("they are not JSON");
  }
  // Up to the first issue: a document of millions of wrong items must not become as many objects.
  const { success, output, issues } = v.safeParse(ParamsSchema, document, { abortEarly: true });
  if (success) return output;
  // Both quote what the peer wrote.
  const where = quote(v.getDotPath(issues[0]) ?? "document", 100);
  throw badParams(`${where}: ${quote(issues[0].message, 200)}`);
}

export function badParams(why: string): AgentError {
  return new AgentError("bad_params", `The guest's parameters are not valid: ${why}`, {
    kind: "refused",
    side: "destination",
  });
}
