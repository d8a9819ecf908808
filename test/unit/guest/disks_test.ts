// Over answers of a QEMU 7.2.22 with one of everything; recorded/ holds them, shortened to the
// fields that are read.

import { assert, assertEquals, assertThrows } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import { describeDisks, type DiskChoice, isNamed } from "../../../src/guest/disks.ts";
import type { Disk } from "../../../src/guest/params.ts";
import type { BlockDeviceInfo, BlockInfo } from "../../../src/qmp/commands.ts";
import blocks from "./recorded/query_block.json" with { type: "json" };
import nodes from "./recorded/query_named_block_nodes.json" with { type: "json" };

const NOTHING: DiskChoice = { copyStorage: false, only: null, exclude: [] };

function describe(
  choice: Partial<DiskChoice> = {},
  list: BlockInfo[] = blocks as BlockInfo[],
): Disk[] {
  return describeDisks(list, nodes as BlockDeviceInfo[], {
    choice: { ...NOTHING, ...choice },
    resolvePath: (path) => path.startsWith("/") ? path : `/cwd/${path}`,
  });
}

function find(disks: Disk[], name: string): Disk {
  const disk = disks.find((candidate) => candidate.name === name);
  assert(disk, `no disk '${name}' among ${disks.map((other) => other.name).join(", ")}`);
  return disk;
}

/** Only the drives with these names: most of the others cannot be mirrored. */
function only(...names: string[]): BlockInfo[] {
  const all = blocks as BlockInfo[];
  return all.filter(({ device, qdev, inserted }) =>
    names.some((name) => [device, inserted?.["node-name"]].includes(name) || qdev?.includes(name))
  );
}

Deno.test("every drive has a name of its own: device, else the frontend's id, else the node", () => {
  assertEquals(describe().map(({ name }) => name), [
    ...["pflash0", "pflash1", "hd0", "vd0", "nv0", "cd0", "cd1", "fl0", "js0", "snap0", "vm0"],
    ...["fat0", "scsi-node", "disk", "bd-file", "throttled", "sliced", "loop", "nulled"],
  ]);
});

const IMAGES: [name: string, format: string, protocol: string, path: string | null][] = [
  ["pflash1", "raw", "file", "/images/vars.fd"],
  ["hd0", "raw", "file", "/cwd/d/a.raw"],
  ["vd0", "qcow2", "file", "/images/top.qcow2"],
  ["scsi-node", "raw", "file", "/images/sd.raw"],
  ["nv0", "raw", "file", "/images/nv.raw"],
  ["bd-file", "raw", "file", "/images/bd.raw"], // -blockdev without a format node
  ["loop", "raw", "host_device", "/dev/loop0"],
  ["vm0", "vmdk", "file", "/images/v.vmdk"],
  ["js0", "qcow2", "file", "/images/js.qcow2"], // given as json:, told by its name
  // QEMU tells these as json:, because their name alone would not open the same.
  ["sliced", "raw", "file", "/images/blkdbg.raw"],
  ["throttled", "raw", "file", "/images/throt.raw"],
  ["snap0", "qcow2", "file", "/var/tmp/vl.YELDZ3"],
  // No file at all.
  ["nulled", "null-co", "null-co", null],
  ["fat0", "raw", "raw", null],
];

for (const [name, format, protocol, path] of IMAGES) {
  Deno.test(`image of '${name}': ${format} over ${protocol}, ${path}`, () => {
    const disk = find(describe(), name);
    assertEquals([disk.format, disk.protocol, disk.path], [format, protocol, path]);
  });
}

Deno.test("sizes are exact; a chain's images count together and are named top to bottom", () => {
  const disk = find(describe(), "vd0");
  assertEquals(disk.virtual_size_bytes, 4194304);
  assertEquals(disk.cluster_size_bytes, 65536);
  assertEquals(disk.allocated_bytes, 3 * 200704);
  assertEquals(disk.backing, ["/images/mid.qcow2", "/images/base.qcow2"]);
  assertEquals(find(describe(), "hd0").backing, []);
  assertEquals(find(describe(), "snap0").backing, ["/images/sn.raw"]);
});

Deno.test("what is below a filter is no backing image; a slice has the size of the slice", () => {
  assertEquals(find(describe(), "throttled").backing, []);
  assertEquals(find(describe(), "sliced").virtual_size_bytes, 1048576);
});

Deno.test("flash, CD-ROM with and without a medium", () => {
  const disks = describe();
  assertEquals(find(disks, "pflash1").kind, "pflash");
  const full = find(disks, "cd0");
  assertEquals([full.kind, full.action, full.read_only], ["cdrom", "present", true]);
  const empty = find(disks, "cd1");
  assertEquals([empty.action, empty.path, empty.virtual_size_bytes], ["empty", null, 0]);
});

Deno.test("what is done with each: shared, present when read-only, mirrored with -q", () => {
  const shared = describe();
  assertEquals(find(shared, "hd0").action, "shared");
  assertEquals(find(shared, "pflash0").action, "present");
  const mirrored = describe(
    { copyStorage: true },
    only("hd0", "pflash0", "pflash1", "cd0", "cd1", "fl0"),
  );
  assertEquals(mirrored.map(({ name, action }) => `${name} ${action}`), [
    "pflash0 present",
    "pflash1 mirror",
    "hd0 mirror",
    "cd0 present",
    "cd1 empty",
    "fl0 mirror",
  ]);
});

Deno.test("--disks and --exclude-disks: by name, id, node, path or file name", () => {
  const some = only("hd0", "vd0", "scsi-node", "loop");
  const mirrored = (choice: Partial<DiskChoice>) =>
    describe({ copyStorage: true, ...choice }, some)
      .filter(({ action }) => action === "mirror").map(({ name }) => name);
  assertEquals(mirrored({ only: ["ide-disk", "top.qcow2"] }), ["hd0", "vd0"]);
  assertEquals(mirrored({ exclude: ["/images/sd.raw", "lo-raw"] }), ["hd0", "vd0"]);
  assertEquals(mirrored({ only: ["hd0", "vd0"], exclude: ["vd0"] }), ["hd0"]);
});

Deno.test("a word that names no disk is refused, with those that there are", () => {
  const error = assertThrows(() => describe({ exclude: ["hd9"] }), AgentError, "no disk 'hd9'");
  assertEquals([error.code, error.kind, error.side], ["unknown_disk", "refused", "source"]);
  assert(error.hint?.includes("hd0, vd0"));
});

Deno.test("a disk without a file cannot be mirrored, and may be left out", () => {
  const nulled = only("nulled");
  const error = assertThrows(() => describe({ copyStorage: true }, nulled), AgentError);
  assertEquals([error.code, error.kind], ["disk_not_mirrorable", "refused"]);
  assert(error.hint?.includes("--exclude-disks nulled"));
  const [disk] = describe({ copyStorage: true, exclude: ["nulled"] }, nulled);
  assertEquals(disk?.action, "shared");
});

Deno.test("a backend without frontend and medium is no drive; one name is given once", () => {
  assertEquals(describe({}, [{ device: "floppy0", removable: true }]), []);
  const [drive] = only("hd0");
  const twins = describe({}, [drive!, drive!, drive!]).map(({ name }) => name);
  assertEquals(twins, ["hd0", "hd0.1", "hd0.2"]);
});

Deno.test("isNamed: an empty word names nothing", () => {
  assert(!isNamed(find(describe(), "cd1"), ""));
});
