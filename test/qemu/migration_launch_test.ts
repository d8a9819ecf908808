// Guests of every kind moved into a QEMU that the receiver launches: buses, ways to name a disk on
// the command line, formats, media, firmware. The guest writes all the time and must go on unbroken.

import { assertEquals, assertStringIncludes } from "@std/assert";
import { makeImage } from "../lib/disks.ts";
import { makeBootDisk, move, type Moved, startGuest } from "../lib/moving.ts";
import { requires } from "../lib/requires.ts";
import { TestSite } from "../lib/site.ts";
import { TempDir } from "../lib/temp.ts";

const MIB = 2 ** 20;

interface Case {
  name: string;
  /** `@name` stands for an image in the source's folder; see `makeImages`. */
  args: string;
  /** `@name` as above. */
  receive?: string;
  /** Disk by disk, as the account names and treats them. */
  disks: Record<string, "mirror" | "shared" | "present" | "empty">;
  /** The disks whose backing chain was copied flat. */
  flattened?: string[];
  /** Parts of the words that the sender must have said. */
  warnings?: string[];
  /** Changes the source after its start. */
  prepare?: (monitor: Moved["guest"]["qmp"], signal: AbortSignal) => Promise<unknown>;
}

const CASES: Case[] = [
  {
    name: "virtio-blk, raw and qcow2, sizes that are no multiple of a cluster",
    args: "-nodefaults -drive file=@boot-odd.raw,format=raw,if=none,id=d0 " +
      "-device virtio-blk-pci,drive=d0,bootindex=1 " +
      "-drive file=@data-odd.qcow2,if=virtio,format=qcow2",
    disks: { d0: "mirror", virtio0: "mirror" },
  },
  {
    name: "IDE by shorthands, a backing chain, a CD that is there too, a drive made by default",
    args: "-hda @overlay.qcow2 -drive file=@data.raw,format=raw,if=ide -cdrom @media/disc.iso",
    receive: "--path-map @media=@media",
    disks: { "ide0-hd0": "mirror", "ide0-hd1": "mirror", "ide1-cd0": "present", floppy0: "empty" },
    flattened: ["ide0-hd0"],
    warnings: ["backing chain copied flat"],
  },
  {
    name: "virtio-scsi, a CD that is missing there",
    args:
      "-nodefaults -device virtio-scsi-pci,id=s -drive file=@boot.raw,format=raw,if=none,id=d0 " +
      "-device scsi-hd,drive=d0,bus=s.0,id=h0,bootindex=1 " +
      "-drive file=@data.qcow2,if=none,id=d1 -device scsi-hd,drive=d1,bus=s.0,id=h1 " +
      "-drive file=@media/disc.iso,media=cdrom,if=none,id=c -device scsi-cd,drive=c,bus=s.0,id=cd",
    receive: "--path-map @media=@nowhere",
    disks: { d0: "mirror", d1: "mirror", c: "present" },
    warnings: ["is not here: left out"],
  },
  {
    name: "q35 with SATA and virtio, and two flash chips",
    args: "-M q35 -drive file=@boot.raw,format=raw -drive file=@data.qcow2,if=virtio " +
      "-drive if=pflash,unit=0,format=raw,readonly=on,file=/usr/share/seabios/bios-256k.bin " +
      "-drive if=pflash,unit=1,format=raw,file=@vars.raw",
    disks: {
      "ide0-hd0": "mirror",
      virtio0: "mirror",
      pflash0: "present",
      pflash1: "mirror",
      "ide2-cd0": "empty",
    },
  },
  {
    name: "-blockdev as keys and as JSON, nested and by reference",
    args: "-nodefaults -blockdev raw,node-name=n0,file.driver=file,file.filename=@boot.raw " +
      "-device virtio-blk-pci,drive=n0,id=b0,bootindex=1 " +
      '-blockdev {"driver":"file","node-name":"p1","filename":"@data.qcow2"} ' +
      '-blockdev {"driver":"qcow2","node-name":"n1","file":"p1"} ' +
      "-device virtio-blk-pci,drive=n1,id=b1 " +
      '-blockdev {"driver":"qcow2","node-name":"n2","file":{"driver":"file",' +
      '"filename":"@overlay2.qcow2"}} -device ide-hd,drive=n2,id=b2',
    disks: { b0: "mirror", b1: "mirror", b2: "mirror" },
    flattened: ["b2"],
  },
  {
    name: "a disk that was taken out",
    args: "-nodefaults -drive file=@boot-alone.raw,format=raw,if=none,id=d0 " +
      "-device virtio-blk-pci,drive=d0,bootindex=1 -device virtio-scsi-pci,id=s " +
      "-drive file=@data.qcow2,if=none,id=d1 -device scsi-hd,drive=d1,bus=s.0,id=h1",
    disks: { d0: "mirror" },
    async prepare(monitor, signal) {
      using gone = monitor.subscribe("DEVICE_DELETED");
      await monitor.execute("device_del", { id: "h1" }, { signal });
      await gone.next(signal);
    },
  },
];

for (const { name, args, receive = "", disks, flattened = [], warnings = [], prepare } of CASES) {
  Deno.test({
    name: `migration, launched: ${name}`,
    ...requires("qemu-system-x86_64", "qemu-img"),
    async fn() {
      const signal = AbortSignal.timeout(60_000);
      await using temp = await TempDir.create();
      await using site = await TestSite.create();
      await makeImages(temp, signal);
      const argv = (text: string) =>
        text.replaceAll("@", `${temp.path}/`).split(" ").filter((arg) => arg !== "");
      await using source = await startGuest(argv(args), { signal });
      await prepare?.(source.monitor, signal);
      await using moved = await move(site, { source, receive: argv(receive), signal });
      const account = moved.sender.account!;
      assertEquals(
        Object.fromEntries(account.disks.map((disk) => [disk.name, disk.action])),
        disks,
      );
      assertEquals(
        account.disks.filter((disk) => disk.flattened).map((disk) => disk.name),
        flattened,
      );
      await checkTargets(moved, signal);
      const said = moved.sender.lines.flatMap((line) => line.type === "warning" ? line.text : []);
      for (const warning of warnings) assertStringIncludes(said.join("\n"), warning);
    },
  });
}

/** The images at the destination have the size that the guest saw, and stand alone. */
async function checkTargets(moved: Moved, signal: AbortSignal): Promise<void> {
  const blocks = await moved.guest.qmp.execute("query-block", {}, { signal });
  for (const disk of moved.sender.account!.disks) {
    if (disk.action !== "mirror") continue;
    const image = blocks.find(({ inserted }) => inserted?.file === disk.path)?.inserted?.image;
    assertEquals(image?.["virtual-size"], disk.virtual_size_bytes, disk.name);
    assertEquals(image?.["backing-image"], undefined, disk.name);
  }
}

/** The images that the cases name. */
async function makeImages(temp: TempDir, signal: AbortSignal): Promise<void> {
  for (const folder of ["media", "nowhere"]) await Deno.mkdir(temp.file(folder));
  const raw = (name: string, sizeBytes: number) =>
    makeImage(temp.file(name), { format: "raw", sizeBytes, signal });
  const qcow2 = (name: string, sizeBytes: number) =>
    makeImage(temp.file(name), { format: "qcow2", sizeBytes, signal });
  await makeBootDisk(temp.file("boot.raw"), { signal });
  await makeBootDisk(temp.file("boot-alone.raw"), { guest: { diskMask: 1 }, signal });
  // QEMU takes a file of any number of bytes for one of whole sectors.
  await makeBootDisk(temp.file("boot-odd.raw"), { sizeBytes: 10 * MIB + 700, signal });
  await qcow2("data-odd.qcow2", 10 * MIB + 512);
  await qcow2("data.qcow2", 8 * MIB);
  await raw("data.raw", 9 * MIB);
  await raw("media/disc.iso", 1 * MIB);
  await raw("vars.raw", 256 * 1024);
  const backing = { path: temp.file("boot.raw"), format: "raw" } as const;
  const overlay = { format: "qcow2", sizeBytes: 8 * MIB, signal } as const;
  await makeImage(temp.file("overlay.qcow2"), { ...overlay, backing });
  const backing2 = { path: temp.file("data.raw"), format: "raw" } as const;
  await makeImage(temp.file("overlay2.qcow2"), { ...overlay, backing: backing2 });
}
