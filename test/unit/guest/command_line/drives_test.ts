// The names were read from `query-block` of QEMU 7.2.

import { assertEquals } from "@std/assert";
import { findDrives } from "../../../../src/guest/command_line/drives.ts";
import { parseOptions } from "../../../../src/guest/command_line/options.ts";

Deno.test("drives without an id get QEMU's names", () => {
  const drive = (rest: string) => ["-drive", `file=x,format=raw${rest}`];
  const cases: [string, string[], string[]][] = [
    ["pc-i440fx-7.2", ["-hda", "a", "-hdc", "b", ...drive(""), ...drive(",media=cdrom")], [
      "ide0-hd0",
      "ide1-hd0",
      "ide0-hd1",
      "ide1-cd1",
    ]],
    ["pc-q35-7.2", ["-hda", "a", "-hdd", "b", ...drive(""), ...drive(",media=cdrom")], [
      "ide0-hd0",
      "ide3-hd0",
      "ide1-hd0",
      "ide2-cd0",
    ]],
    ["pc-q35-7.2", [
      ...drive(",if=virtio"),
      ...drive(",if=virtio,index=3"),
      ...drive(",if=virtio"),
      ...drive(",if=none,id=x"),
      ...drive(",if=none"),
      "-fda",
      "e",
    ], ["virtio0", "virtio3", "virtio1", "x", "none1", "floppy0"]],
    ["microvm", [...drive(""), ...drive(",if=none"), ...drive(",id=x"), ...drive("")], [
      "none00",
      "none10",
      "x",
      "none30",
    ]],
    ["pc-i440fx-7.2", ["e.img", "-cdrom", "c.iso", "-pflash", "f", "-pflash", "v", "-sd", "s"], [
      "ide0-hd0",
      "ide1-cd0",
      "pflash0",
      "pflash1",
      "sd0",
    ]],
    ["pc-i440fx-7.2", [...drive(",if=scsi"), ...drive(",if=scsi,bus=1,unit=6,media=cdrom")], [
      "scsi0-hd0",
      "scsi1-cd6",
    ]],
  ];
  for (const [machine, argv, ids] of cases) {
    const found = findDrives(parseOptions(argv), machine).map(({ id }) => id);
    assertEquals(found, ids, `${machine} ${argv.join(" ")}`);
  }
});
