// What was found by fuzzing, or while the fuzzer was written: every input is judged as the fuzzer does.

import { assertEquals } from "@std/assert";
import type { Disk } from "../../src/guest/params.ts";
import { PARAMS } from "./corpus.ts";
import { type Ending, runCase } from "./target.ts";
import { targetNamed } from "./target_table.ts";

interface Regression {
  target: string;
  about: string;
  input: unknown;
  ending: Ending;
}

const DISK: Disk = {
  name: "d",
  device: "",
  node_name: "top",
  qdev: "d",
  kind: "disk",
  action: "mirror",
  format: "qcow2",
  protocol: "file",
  path: "/src/d",
  read_only: false,
  removable: false,
  virtual_size_bytes: 1 << 20,
  allocated_bytes: 0,
  cluster_size_bytes: 65536,
  backing: [],
};

function line(argv: string[], disks: Disk[] = []) {
  return { argv, machine: "pc-q35-7.2", disks, allowVnc: false };
}

function document(parts: Record<string, unknown>): string {
  return JSON.stringify({ ...PARAMS[0]!, ...parts });
}

const DEEP_LIST = `{"driver":"null","id":${"[".repeat(3000)}${"]".repeat(3000)}}`;
const READ_ONLY: Disk = { ...DISK, action: "present", read_only: true, format: "raw" };

const REGRESSIONS: readonly Regression[] = [
  {
    target: "command_line",
    about: "a disk is a layer within a node, whose other layers nobody looks at",
    input: line([
      "-blockdev",
      "qcow2,node-name=x,file.driver=file,file.node-name=top,file.filename=/y," +
      "backing.driver=file,backing.filename=/etc/shadow",
    ], [{ ...DISK, format: "raw" }]),
    ending: "refused",
  },
  {
    target: "command_line",
    about: "a node refers to its file and describes another one",
    input: line([
      ...["-blockdev", "file,node-name=f,filename=/y"],
      ...["-blockdev", "qcow2,node-name=top,file=f,file.driver=file,file.filename=/etc/shadow"],
    ], [DISK]),
    ending: "refused",
  },
  {
    target: "command_line",
    about: "a tap with a bridge, without a helper, runs /etc/qemu-ifup",
    input: line(["-netdev", "tap,id=t,br=br7"]),
    ending: "refused",
  },
  {
    target: "command_line",
    about: "the disk's format names a driver that opens something else",
    input: line(["-drive", "file=/x,if=none,id=d"], [{ ...DISK, device: "d", format: "vvfat" }]),
    ending: "refused",
  },
  {
    target: "command_line",
    about: "a -drive without readonly for an image that may only be read",
    input: line(["-drive", "file=/x,if=none,id=d"], [{ ...READ_ONLY, device: "d" }]),
    ending: "value",
  },
  {
    target: "command_line",
    about: "a protocol node that can be written, below a node that cannot",
    input: line([
      ...["-blockdev", '{"driver":"file","node-name":"f","filename":"/x"}'],
      ...["-blockdev", '{"driver":"raw","node-name":"top","read-only":true,"file":"f"}'],
    ], [READ_ONLY]),
    ending: "value",
  },
  {
    target: "command_line",
    about: "a key that only begins like one that stays",
    input: line(["-blockdev", "throttle,throttle-group.,node-name=n,file.driver=file"], [
      { ...DISK, node_name: "n", format: "raw" },
    ]),
    ending: "refused",
  },
  {
    target: "command_line",
    about: "a hint quotes a line break of the peer's",
    input: line(["-netdev", "user,\n"]),
    ending: "refused",
  },
  {
    target: "command_line",
    about: "a warning quotes a terminal's escape of the peer's",
    input: line(["-display", "\x1b[2J"]),
    ending: "value",
  },
  {
    target: "command_line",
    about: "a zero byte as a JSON escape becomes part of an argument",
    input: line(["-audiodev", '{"driver":"none","id":"\\u0000"}']),
    ending: "refused",
  },
  {
    target: "keyval",
    about: "a list so deep that writing it back needs most of the stack",
    input: "=" + DEEP_LIST,
    ending: "refused",
  },
  {
    target: "keyval",
    about: "a number beyond all numbers was written back as null",
    input: '={"-":"","e":1e994}',
    ending: "refused",
  },
  {
    target: "params",
    about: "the refusal quotes a megabyte of the peer's, control characters and all",
    input: document({ hypervisor: "\x1b[2J" + "x".repeat(1 << 20) }),
    ending: "refused",
  },
  {
    target: "params",
    about: "two disks of one name: each would be judged by the other's path",
    input: document({ disks: [DISK, { ...READ_ONLY, name: "d" }] }),
    ending: "refused",
  },
  {
    target: "params",
    about: "a disk that is only to be present is said to be writable",
    input: document({ disks: [{ ...READ_ONLY, read_only: false }] }),
    ending: "refused",
  },
  {
    target: "params",
    about: "two million wrong items become as many issues",
    input: document({ disks: new Array(2_000_000).fill(0) }),
    ending: "refused",
  },
];

for (const { target, about, input, ending } of REGRESSIONS) {
  Deno.test(`fuzz, ${target}: ${about}`, async () => {
    assertEquals(await runCase(targetNamed(target), input), ending);
  });
}

// Not to be seen from the ending: memory and time by the piece.
Deno.test("fuzz, document: a document in single bytes costs what it holds", async () => {
  const bytes = new Uint8Array(1 + (4 << 20)).fill(0x20);
  bytes[0] = 0;
  assertEquals(await runCase(targetNamed("document"), bytes), "value");
});
