// Which node of a device model sees all that a guest writes, and what is refused because none does: the
// RFC's note on PV drivers, as a table.

import { assertEquals, assertThrows } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import type { DiskChoice } from "../../../src/guest/disks.ts";
import type { BlockDeviceInfo, BlockInfo } from "../../../src/qmp/commands.ts";
import { checkUnchanged, describeDomainDisks } from "../../../src/xen/domain_disks.ts";
import type { DiskBackend } from "../../../src/xen/xenstore.ts";

const ALL: DiskChoice = { copyStorage: true, only: null, exclude: [] };
const PATH = "/srv/g1.img";
const HDA = { vdev: "hda", path: PATH, isCdrom: false, script: null };

function inserted(node: string): BlockDeviceInfo {
  return {
    file: PATH,
    "node-name": node,
    drv: "raw",
    ro: false,
    image: { filename: PATH, format: "raw", "virtual-size": 8 << 20, "actual-size": 4096 },
  };
}

/** The file's own node below a disk's. */
const FILE: BlockDeviceInfo = { ...inserted("#file"), drv: "file" };
const EMULATED: BlockInfo = {
  device: "ide0-hd0",
  qdev: "/machine/unattached/device[1]",
  removable: false,
  inserted: inserted("#block1"),
};
const PARAVIRTUAL: BlockInfo = { device: "", removable: false, inserted: inserted("hda-raw") };

function backend(parts: Partial<DiskBackend> = {}): DiskBackend {
  const path = "/local/domain/0/backend/qdisk/1/768";
  return { vdev: "hda", type: "qdisk", domid: 0, path, connected: false, ...parts };
}

function describe(options: {
  blocks?: BlockInfo[];
  backends?: DiskBackend[];
  configured?: (typeof HDA)[];
  choice?: DiskChoice;
}) {
  const { blocks = [EMULATED, PARAVIRTUAL], backends = [backend()] } = options;
  const { configured = [HDA], choice = ALL } = options;
  const nodes = [...blocks.map((block) => block.inserted!), FILE];
  return describeDomainDisks({ configured, blocks, nodes, backends, choice });
}

Deno.test("disks: a guest without PV drivers is mirrored at its emulated disk", () => {
  const { disks, uses } = describe({});
  assertEquals([disks[0]?.name, disks[0]?.node_name, disks[0]?.action], [
    "hda",
    "#block1",
    "mirror",
  ]);
  assertEquals(uses, [{ vdev: "hda", connected: false }]);
});

Deno.test("disks: a guest with PV drivers is mirrored at its PV node", () => {
  const { disks, uses } = describe({
    blocks: [PARAVIRTUAL],
    backends: [backend({ connected: true })],
  });
  assertEquals([disks[0]?.node_name, uses[0]?.connected], ["hda-raw", true]);
});

Deno.test("disks: what blkback could serve stays mirrored while the guest does not use it", () => {
  const { disks } = describe({ blocks: [EMULATED], backends: [backend({ type: "vbd" })] });
  assertEquals(disks[0]?.node_name, "#block1");
});

const REFUSED: [what: string, options: Parameters<typeof describe>[0], why: string][] = [
  ["PV drivers through blkback in the kernel", {
    blocks: [EMULATED],
    backends: [backend({ type: "vbd", connected: true })],
  }, "past the device model"],
  ["a disk that the device model has not got", { blocks: [] }, "the device model does not have it"],
  ["blkback without an emulated disk", {
    blocks: [PARAVIRTUAL],
    backends: [backend({ type: "vbd" })],
  }, "past the device model"],
  ["both doors in use", { backends: [backend({ connected: true })] }, "both can write"],
  ["a driver domain", { backends: [backend({ domid: 3 })] }, "driver domain 3"],
  ["a script of its own", {
    configured: [{ ...HDA, script: "/etc/xen/scripts/block-iscsi" as never }],
  }, "block-iscsi"],
  ["two disks with one image", { configured: [HDA, { ...HDA, vdev: "hdb" }] }, "same image"],
];

for (const [what, options, why] of REFUSED) {
  Deno.test(`disks refused: ${what}`, () => {
    const error = assertThrows(() => describe(options), AgentError, why);
    assertEquals([error.code, error.kind], ["disk_not_mirrorable", "refused"]);
  });
}

Deno.test("disks: what is shared may be served in any way", () => {
  const choice = { ...ALL, copyStorage: false };
  const { disks, uses } = describe({
    blocks: [EMULATED],
    backends: [backend({ type: "vbd", connected: true })],
    choice,
  });
  assertEquals([disks[0]?.action, uses], ["shared", []]);
});

Deno.test("disks: a driver that came or went while the disk was mirrored is found out", () => {
  checkUnchanged([{ vdev: "hda", connected: false }], [backend()]);
  checkUnchanged([{ vdev: "hda", connected: false }], []); // there are no PV drivers at all
  for (const connected of [true, false]) {
    const now = [backend({ connected: !connected })];
    const error = assertThrows(() => checkUnchanged([{ vdev: "hda", connected }], now), AgentError);
    assertEquals(error.code, "disk_backend_changed");
  }
});
