// A guest and a destination for the tests of command lines.

import type { DestinationSettings } from "../../../../src/guest/command_line/destination.ts";
import type { Policy } from "../../../../src/guest/command_line/policy.ts";
import type { Disk, GuestParams } from "../../../../src/guest/params.ts";

/** A mirrored virtio disk, changed by `parts`. */
export function makeDisk(parts: Partial<Disk> & { name: string }): Disk {
  return {
    device: parts.name,
    node_name: "#block1",
    qdev: null,
    kind: "disk",
    action: "mirror",
    format: "raw",
    protocol: "file",
    path: `/src/${parts.name}`,
    read_only: false,
    removable: false,
    virtual_size_bytes: 1 << 20,
    allocated_bytes: 0,
    cluster_size_bytes: 0,
    backing: [],
    ...parts,
  };
}

export function makeParams(
  argv: string[],
  parts: { disks?: Disk[]; machine?: string; arch?: string } = {},
): GuestParams {
  return {
    hypervisor: "qemu",
    name: "guest",
    uuid: null,
    running: true,
    machine: parts.machine ?? "pc-q35-7.2",
    arch: parts.arch ?? "x86_64",
    vcpus: 1,
    memory_bytes: 1 << 27,
    qemu: { version: "7.2.0", package: "", binary: "/usr/bin/qemu-system-x86_64", argv },
    hot_plugged: [],
    disks: parts.disks ?? [],
  };
}

/** Every disk at `/dst/<name>`; `/src/x` is `/dst/x` here; `/ro` may be read, `/dst` written. */
export function makeSettings(
  disks: Disk[],
  parts: { policy?: Partial<Policy>; settings?: Partial<DestinationSettings> } = {},
): DestinationSettings {
  return {
    qmpPath: "/run/m/qmp,1.sock",
    pidFile: "/run/m/pid",
    logFile: null,
    runDir: "/run/m",
    disks: new Map(
      disks.map(({ name, action }) => [
        name,
        action === "empty" ? null : { path: `/dst/${name}`, protocol: "file" },
      ]),
    ),
    pathFor: (path) => path.startsWith("/src/") ? `/dst/${path.slice(5)}` : null,
    realPath: (path) => {
      if (path.includes("absent")) return null;
      return path === "/ro/link" ? "/etc/shadow" : new URL(`file://${path}`).pathname;
    },
    policy: {
      readFolders: ["/ro"],
      writeFolders: ["/dst"],
      bridges: ["br7"],
      allowVnc: false,
      overrides: new Map(),
      ...parts.policy,
    },
    ...parts.settings,
  };
}
