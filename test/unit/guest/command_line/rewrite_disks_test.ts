// What becomes of the options for disks, whichever way they are written.

import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { AgentError } from "../../../../src/base/errors.ts";
import { rewriteCommandLine, withoutDevices } from "../../../../src/guest/command_line/rewrite.ts";
import type { Disk } from "../../../../src/guest/params.ts";
import {
  change,
  makeDisk,
  makeParams,
  makeSettings,
  OWN,
  refusal,
  rewrite,
  words,
} from "./fixtures.ts";

Deno.test("disks: -drive and its shorthands", () => {
  const cases: [string, Disk[], string][] = [
    [
      "-hda a,b.raw",
      [makeDisk({ name: "ide0-hd0" })],
      "-drive index=0,media=disk,file=/dst/ide0-hd0,format=raw",
    ],
    [
      "x.img",
      [makeDisk({ name: "ide0-hd0" })],
      "-drive index=0,media=disk,file=/dst/ide0-hd0,format=raw",
    ],
    [
      "-drive file=a,id=d,if=virtio,cache=none,aio=native,iops_rd=5,throttling.bps-total=9",
      [makeDisk({ name: "d", format: "qcow2" })],
      "-drive id=d,if=virtio,cache=none,aio=native,iops_rd=5,throttling.bps-total=9,file=/dst/d,format=qcow2",
    ],
    // A copy is flat and whole, whatever the source's image was made of.
    [
      "-drive if=none,id=d,driver=qcow2,file.driver=nbd,file.host=h,file.locking=off,backing.file.filename=b,l2-cache-size=1M",
      [makeDisk({ name: "d", format: "qcow2" })],
      "-drive if=none,id=d,file.locking=off,l2-cache-size=1M,file=/dst/d,format=qcow2",
    ],
    [
      "-drive if=none,id=d,file=a,format=raw,offset=512,size=1M",
      [makeDisk({ name: "d" })],
      "-drive if=none,id=d,file=/dst/d,format=raw",
    ],
    ["-drive if=none,id=d,file=a,format=raw,offset=512,size=1M", [
      makeDisk({ name: "d", action: "shared" }),
    ], "-drive if=none,id=d,offset=512,size=1M,file=/dst/d,format=raw"],
    [
      '-drive if=none,id=d,file=json:{"driver":"file",,"filename":"/x"}',
      [makeDisk({ name: "d" })],
      "-drive if=none,id=d,file=/dst/d,format=raw",
    ],
    // The medium that is in the drive now.
    [
      "-cdrom c.iso",
      [makeDisk({ name: "ide2-cd0", action: "empty", format: "", removable: true })],
      "-drive index=2,media=cdrom",
    ],
    [
      "-drive if=none,media=cdrom,id=c,file=c.iso,format=raw,readonly=on,node-name=x,discard=unmap",
      [makeDisk({ name: "c", action: "empty", format: "", removable: true })],
      "-drive if=none,media=cdrom,id=c",
    ],
    [
      "-drive if=none,media=cdrom,id=c",
      [makeDisk({ name: "c", action: "present", removable: true, read_only: true })],
      "-drive if=none,media=cdrom,id=c,readonly=on,file=/dst/c,format=raw",
    ],
  ];
  for (const [argv, disks, after] of cases) {
    assertEquals(change(words(argv), { disks }), words(after), argv);
  }
  const inserted = makeDisk({
    name: "ide2-cd0",
    action: "present",
    removable: true,
    read_only: true,
  });
  assertEquals(change([], { disks: [inserted] }), [
    "-drive",
    "if=ide,index=2,media=cdrom,file=/dst/ide2-cd0,format=raw,readonly=on",
  ]);
});

const QCOW2 = (device: string) =>
  makeDisk({ name: "d", device: "", node_name: device, format: "qcow2" });

Deno.test("disks: -blockdev", () => {
  const cases: [string[], Disk[], string[]][] = [
    [
      [
        "-blockdev",
        '{"driver":"qcow2","node-name":"f","file":"p","backing":"b","read-only":false}',
      ],
      [],
      ["-blockdev", '{"driver":"qcow2","node-name":"f","file":"p","read-only":false}'],
    ],
    [
      [
        "-blockdev",
        "node-name=f,driver=qcow2,file.driver=nbd,file.server.type=unix,file.server.path=/x,discard=unmap",
      ],
      [QCOW2("f")],
      ["-blockdev", "node-name=f,driver=qcow2,file.driver=file,discard=unmap,file.filename=/dst/d"],
    ],
  ];
  const chain = [
    ["-blockdev", "driver=file,node-name=p,filename=/src/p,aio=native,cache.direct=on"],
    ["-blockdev", '{"driver":"host_device","node-name":"bp","filename":"/src/b"}'],
    ["-blockdev", "driver=qcow2,node-name=b,file=bp"],
  ];
  assertEquals(
    change([...chain.flat(), ...cases[0]![0]], { disks: [QCOW2("f")] }),
    [
      "-blockdev",
      "driver=file,node-name=p,filename=/dst/d,aio=native,cache.direct=on",
      ...cases[0]![2],
    ],
  );
  assertEquals(change(cases[1]![0], { disks: cases[1]![1] }), cases[1]![2]);
  const shared = { ...QCOW2("f"), action: "shared" as const };
  assertEquals(
    change([...chain.flat(), ...cases[0]![0]], { disks: [shared] }),
    [
      ...["-blockdev", "driver=file,node-name=p,filename=/dst/d,aio=native,cache.direct=on"],
      ...["-blockdev"],
      '{"driver":"host_device","node-name":"bp","filename":"/dst/b","read-only":true}',
      ...["-blockdev", "driver=qcow2,node-name=b,file=bp,read-only=on"],
      ...cases[0]![0],
    ],
  );
  const throttled = words(
    "-object throttle-group,id=t,x-iops-total=5 -blockdev throttle,node-name=t0,throttle-group=t,file=f " +
      "-blockdev qcow2,node-name=f,file.driver=file,file.filename=/x",
  );
  assertEquals(
    change(throttled, { disks: [QCOW2("t0")] }),
    throttled.map((word) => word.replace("=/x", "=/dst/d")),
  );
});

Deno.test("disks: removable -blockdev drives follow their medium", () => {
  const argv = words(
    "-blockdev driver=raw,node-name=m,read-only=on,file.driver=file,file.filename=/x " +
      "-device ide-cd,id=cd,drive=m",
  );
  const drive = makeDisk({ name: "cd", device: "", qdev: "cd", removable: true, read_only: true });
  assertEquals(
    change(argv, { disks: [{ ...drive, node_name: "", action: "empty", format: "" }] }),
    words("-device ide-cd,id=cd"),
  );
  assertEquals(
    change(argv, { disks: [{ ...drive, node_name: "#block9", action: "present" }] }),
    argv.map((word) => word.replace("=/x", "=/dst/cd,file.read-only=on")),
  );
  assertEquals(
    change(words("-device ide-cd,id=cd"), {
      disks: [{ ...drive, qdev: "/machine/peripheral/cd", action: "present" }],
    }),
    words(
      "-blockdev driver=raw,node-name=medium-cd,read-only=on,file.driver=file,file.filename=/dst/cd " +
        "-device ide-cd,id=cd,drive=medium-cd",
    ),
  );
});

Deno.test("what a device left behind that was taken out is left out, with a word", () => {
  const argv = words(
    "-machine q35 -drive file=a,if=none,id=x -device scsi-hd,drive=x,id=gone --device usb-kbd,id=k " +
      "-blockdev driver=qcow2,node-name=f,file.driver=file,file.filename=/x " +
      '-device {"driver":"nvme","drive":"f","id":"too"} -device usb-mouse',
  );
  const now = withoutDevices(argv, new Set(["gone", "too"]));
  const { argv: result, warnings } = rewrite(now);
  const rest = words("-machine pc-q35-7.2 -device usb-kbd,id=k -device usb-mouse");
  assertEquals(result, [...rest, ...OWN]);
  assertEquals(warnings.map((text) => text.replace(/ is left out:.*/, "")), [
    "drive 'x'",
    "block node 'f'",
  ]);
});

Deno.test("disks that cannot be had here are refused", () => {
  const node = "-blockdev driver=qcow2,node-name=f,file.driver=file,file.filename=/x";
  const cases: [string, Disk[], string][] = [
    ["-drive file=a,id=d,snapshot=on", [makeDisk({ name: "d" })], "temporary file"],
    ["-drive file=a,id=d,encrypt.key-secret=s", [makeDisk({ name: "d" })], "encrypted"],
    ["-drive file=a,id=d,format=luks", [makeDisk({ name: "d", format: "luks" })], "encrypted"],
    ["-drive file=a,id=d,file.pr-manager=s", [makeDisk({ name: "d" })], "reserved"],
    ["-drive file=a,id=d,brand-new=1", [makeDisk({ name: "d" })], "'brand-new'"],
    ["-drive file=a,id=d,if=xen", [makeDisk({ name: "d" })], "'xen'"],
    ["-drive file=a,id=d,index=z", [makeDisk({ name: "d" })], "number"],
    [
      "-drive id=d,backing.file.filename=b,file=a",
      [makeDisk({ name: "d", action: "shared" })],
      "backing",
    ],
    [node, [makeDisk({ name: "d", device: "", node_name: "f" })], "'qcow2'"],
    [`${node},encrypt.format=luks`, [QCOW2("f")], "encrypted"],
    [`${node},brand-new=1`, [QCOW2("f")], "'brand-new'"],
    ["-blockdev qcow2,node-name=f,file=f", [QCOW2("f")], "below itself"],
    ["-blockdev qcow2,node-name=f,file=g", [QCOW2("f")], "not on the command line"],
    ["-blockdev qcow2,node-name=f", [QCOW2("f")], "lacks its 'file'"],
    [`${node} ${node}`, [QCOW2("f")], "again"],
    ["-m 1G", [QCOW2("f")], "not on QEMU's command line"],
    ["-m 1G", [makeDisk({ name: "d" })], "not on QEMU's command line"],
  ];
  for (const [argv, disks, why] of cases) {
    assertStringIncludes(refusal(words(argv), { disks }).message, why, argv);
  }
  const disks = [makeDisk({ name: "ide0-hd0" })];
  const settings = makeSettings(disks, { settings: { disks: new Map([["ide0-hd0", null]]) } });
  assertThrows(
    () => rewriteCommandLine(makeParams(["-hda", "x"], { disks }), settings),
    AgentError,
    "no image here",
  );
});
