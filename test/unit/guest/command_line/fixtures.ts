// A guest and a destination for the tests of command lines, and the rewrite between them.

import { assert, assertEquals, assertThrows } from "@std/assert";
import { AgentError } from "../../../../src/base/errors.ts";
import type { DestinationSettings } from "../../../../src/guest/command_line/destination.ts";
import type { Policy } from "../../../../src/guest/command_line/policy.ts";
import { rewriteCommandLine } from "../../../../src/guest/command_line/rewrite.ts";
import type { Disk, QemuParams } from "../../../../src/guest/params.ts";

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
): QemuParams {
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

/** What every destination has. */
export const OWN = [
  ...["-display", "none", "-qmp", "unix:/run/m/qmp,,1.sock,server=on,wait=off"],
  ...["-pidfile", "/run/m/pid", "-S", "-incoming", "defer", "-daemonize"],
];

/** What a rewrite is told beside the arguments. */
export interface Setting {
  disks?: Disk[];
  machine?: string;
  policy?: Partial<Policy>;
}

/** The command line and the rest for a guest that was started with `argv`. */
export function rewrite(argv: string[], { disks = [], machine, policy }: Setting = {}) {
  const params = makeParams(argv, { disks, ...(machine ? { machine } : {}) });
  return rewriteCommandLine(params, makeSettings(disks, policy ? { policy } : {}));
}

/** What became of `argv`, without what every destination has. */
export function change(argv: string[], setting: Setting = {}): string[] {
  const { argv: result } = rewrite(["-machine", "q35", ...argv], setting);
  assertEquals(result.slice(-OWN.length), OWN);
  const machine = setting.machine ?? "pc-q35-7.2";
  const at = result.indexOf("-machine");
  assertEquals(result.slice(at, at + 2), ["-machine", machine]);
  return [...result.slice(0, at), ...result.slice(at + 2, -OWN.length)];
}

/** Why `argv` is refused. */
export function refusal(argv: string[], setting: Setting = {}): AgentError {
  const error = assertThrows(() => {
    const result = change(argv, setting);
    throw new Error(`became ${result.join(" ")}`);
  }, AgentError);
  assertEquals([error.kind, error.side], ["refused", "destination"], error.message);
  assert(error.hint);
  return error;
}

export const words = (text: string) => text.split(" ").filter((word) => word !== "");
