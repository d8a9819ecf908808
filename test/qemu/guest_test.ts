// The tiny guest in real machines: it finds its disks on every bus, counts, dirties its memory, and
// notices when what it wrote has changed. Everything that a migration is judged by rests on that.

import { assertEquals, assertGreater, assertGreaterOrEqual } from "@std/assert";
import { makeBootProgram, type TinyGuestOptions } from "../../src/demo_guest/guest.ts";
import { makeImage } from "../lib/disks.ts";
import { requires } from "../lib/requires.ts";
import { TempDir } from "../lib/temp.ts";
import { TestVm, TINY_GUEST_ARGS } from "../lib/vm.ts";

const DISK_BYTES = 8 * 1024 * 1024;
const needs = requires("qemu-system-x86_64", "qemu-img");

/** Boot disk and a second one, and the options that attach them. */
async function makeDisks(temp: TempDir, guest: TinyGuestOptions, signal: AbortSignal) {
  const content = makeBootProgram(guest);
  await makeImage(temp.file("0"), { format: "raw", sizeBytes: DISK_BYTES, content, signal });
  await makeImage(temp.file("1"), { format: "qcow2", sizeBytes: DISK_BYTES, signal });
  return [
    ...["-blockdev", `raw,node-name=d0,file.driver=file,file.filename=${temp.file("0")}`],
    ...["-blockdev", `qcow2,node-name=d1,file.driver=file,file.filename=${temp.file("1")}`],
  ];
}

// The firmware finds NVMe disks in any order: it must be told which one to boot from.
const BUSES: Record<string, string[]> = {
  "IDE": ["ide-hd,drive=d0,bus=ide.0,bootindex=0", "ide-hd,drive=d1,bus=ide.1"],
  "virtio-blk": ["virtio-blk-pci,drive=d0,bootindex=0", "virtio-blk-pci,drive=d1"],
  "virtio-scsi": ["virtio-scsi-pci", "scsi-hd,drive=d0,bootindex=0", "scsi-hd,drive=d1"],
  "NVMe": ["nvme,drive=d0,serial=0,bootindex=0", "nvme,drive=d1,serial=1"],
  "virtio-blk and IDE": ["virtio-blk-pci,drive=d0,bootindex=0", "ide-hd,drive=d1,bus=ide.1"],
};

for (const machine of ["pc", "q35"]) {
  for (const [bus, devices] of Object.entries(BUSES)) {
    Deno.test({
      name: `tiny guest: stamps two disks on ${bus} of ${machine}`,
      ...needs,
      async fn() {
        const signal = AbortSignal.timeout(30_000);
        await using temp = await TempDir.create();
        const disks = await makeDisks(temp, { slots: 16, pagesPerTurn: 128, turnMs: 2 }, signal);
        const attach = devices.flatMap((device) => ["-device", device]);
        const args = [...TINY_GUEST_ARGS, "-M", machine, ...disks, ...attach];
        await using vm = await TestVm.start(args, { signal });
        const { laps, ...status } = await vm.waitForCountAbove(40, signal);
        assertGreaterOrEqual(laps, 10); // pages and slots were checked, not only written
        assertEquals(
          { ...status, count: 0 },
          {
            count: 0,
            badDisk: 0,
            badRam: 0,
            ioErrors: 0,
            disks: 2,
            windowBytes: 1024 * 1024,
            firstBad: null,
          },
        );
      },
    });
  }
}

Deno.test({
  name: "tiny guest: notices a changed sector",
  ...needs,
  async fn() {
    const signal = AbortSignal.timeout(30_000);
    await using temp = await TempDir.create();
    const disks = await makeDisks(temp, { slots: 4, turnMs: 1 }, signal);
    const args = [...TINY_GUEST_ARGS, ...disks, "-device", BUSES["IDE"]![0]!];
    await using vm = await TestVm.start(args, { signal });
    const before = await vm.waitForCountAbove(10, signal);
    assertEquals(before.badDisk, 0);
    using file = await Deno.open(temp.file("0"), { write: true });
    let after = before;
    // Stopped between its look at that sector and its write there, the guest cannot know: again then.
    while (after.badDisk === 0) {
      await vm.monitor.execute("stop", {}, { signal });
      await file.seek(64 * 512, Deno.SeekMode.Start);
      await file.write(new Uint8Array(512).fill(0xee));
      await vm.monitor.execute("cont", {}, { signal });
      after = await vm.waitForCountAbove(after.count + 10, signal);
    }
    assertEquals(after.badDisk, 1);
    assertEquals(after.firstBad?.disk, 0);
    assertEquals(after.firstBad?.slot, 0);
    assertEquals(after.firstBad?.found, 0xeeeeeeee);
  },
});

Deno.test({
  name: "tiny guest: notices memory that is older than its counter",
  ...needs,
  async fn() {
    const signal = AbortSignal.timeout(30_000);
    await using temp = await TempDir.create();
    const disks = await makeDisks(temp, { diskMask: 0, pagesPerTurn: 256, turnMs: 1 }, signal);
    const args = [...TINY_GUEST_ARGS, ...disks, "-device", BUSES["IDE"]![0]!];
    await using vm = await TestVm.start([
      ...args,
      "-gdb",
      `unix:${temp.file("gdb")},server=on,wait=off`,
    ], {
      signal,
    });
    const before = await vm.waitForCountAbove(10, signal);
    await writeMemory(temp.file("gdb"), 0x200000 + 5 * 4096 + 256, signal);
    await vm.monitor.execute("cont", {}, { signal });
    const after = await vm.waitForCountAbove(before.count + 10, signal);
    assertEquals([before.badRam, after.badRam], [0, 1]);
  },
});

Deno.test({
  name: "tiny guest: fits its window to the memory, and counts failed writes",
  ...needs,
  async fn() {
    const signal = AbortSignal.timeout(30_000);
    await using temp = await TempDir.create();
    const disks = await makeDisks(temp, { windowBytes: 2 ** 30, turnMs: 1 }, signal);
    const readOnly =
      "blkdebug,node-name=dbg,image=d1,inject-error.0.event=none,inject-error.0.iotype=write";
    const args = [
      ...[...TINY_GUEST_ARGS, ...disks, "-blockdev", readOnly],
      ...["-device", BUSES["IDE"]![0]!],
      ...["-device", "ide-hd,drive=dbg,bus=ide.1,werror=report"],
    ];
    await using vm = await TestVm.start(args, { signal });
    const status = await vm.waitForCountAbove(5, signal);
    assertEquals(status.disks, 2);
    assertEquals(status.badDisk, 0);
    assertGreater(status.ioErrors, 0);
    assertGreater(status.windowBytes, 60 * 2 ** 20);
    assertGreaterOrEqual(62 * 2 ** 20, status.windowBytes);
  },
});

/** Changes one byte of guest memory by QEMU's gdb stub, which stops the guest. */
async function writeMemory(gdbPath: string, address: number, signal: AbortSignal): Promise<void> {
  using gdb = await Deno.connect({ transport: "unix", path: gdbPath });
  const body = `M${address.toString(16)},1:5a`;
  const sum = [...body].reduce((sum, c) => sum + c.charCodeAt(0), 0) & 0xff;
  await gdb.write(new TextEncoder().encode(`+$${body}#${sum.toString(16).padStart(2, "0")}`));
  let answer = "";
  for await (const text of gdb.readable.pipeThrough(new TextDecoderStream(), { signal })) {
    answer += text;
    if (/\$OK#9a/.test(answer)) return;
    if (/\$E/.test(answer)) break;
  }
  throw new Error(`QEMU's gdb stub refused to write memory: '${answer}'`);
}
