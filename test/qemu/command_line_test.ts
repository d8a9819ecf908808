// Rewritten command lines in a real QEMU: the destination's machine has the same devices under the
// same names as the source's, and takes its state.

import { assertEquals } from "@std/assert";
import { rewriteCommandLine } from "../../src/guest/command_line/rewrite.ts";
import { realPathOrNull } from "../../src/guest/image_files.ts";
import { inspectGuest } from "../../src/guest/inspect.ts";
import type { QemuParams } from "../../src/guest/params.ts";
import { QmpClient } from "../../src/qmp/client.ts";
import { run } from "../lib/command.ts";
import { requires } from "../lib/requires.ts";
import { TempDir } from "../lib/temp.ts";
import { TestVm } from "../lib/vm.ts";

interface Case {
  name: string;
  /** `@raw`, `@qcow2` and so on stand for images in the source's folder. */
  args: string;
  /** Changes the source after its start. */
  prepare?: (monitor: QmpClient, temp: TempDir, signal: AbortSignal) => Promise<unknown>;
}

const NO_NET = "-nic none";
const CASES: Case[] = [
  {
    name: "pc by shorthands",
    args: `-M pc ${NO_NET} -hda @raw -hdd @raw2 -cdrom @iso -fda @floppy`,
  },
  { name: "q35, image alone", args: `-M q35 ${NO_NET} @raw -cdrom @iso` },
  {
    name: "-nographic with its default ports",
    args: `-nographic -drive file=@raw,format=raw`,
  },
  {
    name: "-drive on every bus",
    args:
      `-M q35 ${NO_NET} -drive file=@raw,format=raw,if=virtio,cache=none -device virtio-scsi-pci,id=s ` +
      "-drive if=none,id=q,file=@qcow2,file.locking=off,discard=unmap,iops=1000 " +
      "-device scsi-hd,id=h,drive=q,bus=s.0 -drive file=@raw2,format=raw " +
      "-drive if=none,id=c,media=cdrom,file=@iso -device scsi-cd,drive=c,bus=s.0,id=cd",
  },
  {
    name: "-blockdev in both forms with node references",
    args: "-machine type=pc,usb=off -nodefaults -vga std " +
      '-blockdev {"driver":"file","node-name":"p","filename":"@qcow2","cache":{"direct":false}} ' +
      '-blockdev {"driver":"qcow2","node-name":"f","file":"p","discard":"unmap"} ' +
      '-device {"driver":"virtio-blk-pci","drive":"f","id":"b0","addr":"0x7","serial":"a,b"} ' +
      "-blockdev raw,node-name=r,file.driver=file,file.filename=@raw " +
      "-device ide-hd,drive=r,bus=ide.1 " +
      "-netdev user,id=n -device e1000,netdev=n,mac=52:54:00:00:00:07",
  },
  {
    name: "SCSI, SATA and USB controllers",
    args: `-M pc ${NO_NET} -device lsi,id=l -blockdev qcow2,node-name=q,file.driver=file,` +
      "file.filename=@qcow2 -device scsi-hd,drive=q,bus=l.0,scsi-id=3,id=h " +
      "-device qemu-xhci,id=x -drive if=none,id=u,file=@raw,format=raw " +
      "-device usb-storage,drive=u,bus=x.0,id=stick -device ahci,id=a " +
      "-drive if=none,id=s,file=@raw2,format=raw -device ide-hd,drive=s,bus=a.1,serial=7",
  },
  {
    name: "firmware in two flash chips",
    args: `-M q35 ${NO_NET} -drive if=pflash,format=raw,readonly=on,file=@code ` +
      "-drive if=pflash,format=raw,file=@vars -drive file=@raw,format=raw",
  },
  {
    name: "firmware as block nodes of the machine",
    args: `-nodefaults -blockdev driver=file,node-name=c,filename=@code,read-only=on ` +
      "-blockdev driver=raw,node-name=cr,file=c,read-only=on " +
      "-blockdev driver=raw,node-name=v,file.driver=file,file.filename=@vars " +
      "-machine q35,pflash0=cr,pflash1=v -blockdev driver=file,node-name=d,filename=@raw " +
      "-device virtio-blk-pci,drive=d",
  },
  {
    name: "terminals, sockets, sound, sandbox",
    args: `-M pc ${NO_NET} -serial file:@log -chardev stdio,mux=on,id=c0,signal=off ` +
      "-serial chardev:c0 -device virtio-serial-pci -chardev socket,id=ga,path=@sock,server,nowait " +
      "-device virtserialport,chardev=ga,name=org.qemu.guest_agent.0 -audiodev wav,id=a,path=@wav " +
      "-device intel-hda -device hda-duplex,audiodev=a -vnc unix:@vnc -parallel null " +
      "-object memory-backend-ram,id=m,size=128M -machine memory-backend=m -m 128 " +
      "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny " +
      "-object rng-random,id=r,filename=/dev/urandom -device virtio-rng-pci,rng=r -usbdevice tablet",
  },
  {
    name: "media that came and went",
    args: `-M q35 ${NO_NET} -drive if=none,id=c,media=cdrom,file=@iso -device ide-cd,bus=ide.3,` +
      "drive=c,id=gone -blockdev raw,node-name=m,read-only=on,file.driver=file,file.filename=@iso " +
      "-device ide-cd,bus=ide.4,drive=m,id=out -device ide-cd,bus=ide.5,id=in",
    async prepare(monitor, temp, signal) {
      const tell = (command: string, args: Record<string, unknown>) =>
        monitor.execute(command, args, { signal });
      for (const id of ["gone", "out"]) {
        await tell("blockdev-open-tray", { id, force: true });
        await tell("blockdev-remove-medium", { id });
      }
      await tell("blockdev-change-medium", { id: "in", filename: temp.file("raw"), format: "raw" });
    },
  },
];

for (const { name, args, prepare } of CASES) {
  Deno.test({
    name: `launch: ${name}`,
    ...requires("qemu-system-x86_64", "qemu-img"),
    async fn() {
      const signal = AbortSignal.timeout(60_000);
      await using temp = await TempDir.create();
      await makeImages(temp, signal);
      const argv = args.replaceAll("@", `${temp.path}/`).split(" ");
      await using source = await TestVm.start(["-S", ...argv], { signal });
      await prepare?.(source.monitor, temp, signal);
      const params = await inspect(source, signal);
      const { argv: rewritten } = rewriteCommandLine(params, await placeAt(temp, params, signal));
      await using destination = await Daemon.start(temp, { argv: rewritten, signal });
      assertEquals(
        await describeMachine(destination.qmp, signal),
        await describeMachine(source.monitor, signal),
      );
      await moveState(source.monitor, { destination, temp, signal });
    },
  });
}

async function makeImages(temp: TempDir, signal: AbortSignal): Promise<void> {
  const sizes = { raw: "4M", raw2: "3M", iso: "1M", floppy: "1440k", code: "512k", vars: "128k" };
  for (const [name, size] of Object.entries(sizes)) {
    await run(["qemu-img", "create", "-q", "-f", "raw", temp.file(name), size], signal);
  }
  await run(["qemu-img", "create", "-q", "-f", "raw", temp.file("base"), "8M"], signal);
  const backing = ["-b", temp.file("base"), "-F", "raw"];
  await run(["qemu-img", "create", "-q", "-f", "qcow2", ...backing, temp.file("qcow2")], signal);
}

async function inspect(source: TestVm, signal: AbortSignal): Promise<QemuParams> {
  await using qmp = await QmpClient.connect(source.qmpPath, { signal });
  const choice = { copyStorage: true, only: null, exclude: [] };
  return (await inspectGuest(qmp, { qemuPid: source.pid, choice, signal })).params;
}

/** Settings of a destination whose mirrored disks are new, empty images. */
async function placeAt(temp: TempDir, params: QemuParams, signal: AbortSignal) {
  const disks = new Map<string, { path: string; protocol: "file" } | null>();
  for (const [at, { name, action, format, path, virtual_size_bytes }] of params.disks.entries()) {
    const target = action === "mirror" ? temp.file(`target,${at}`) : path;
    disks.set(name, target === null ? null : { path: target, protocol: "file" });
    if (action !== "mirror") continue;
    await run(
      ["qemu-img", "create", "-q", "-f", format, target!, String(virtual_size_bytes)],
      signal,
    );
  }
  return {
    qmpPath: temp.file("destination-qmp"),
    pidFile: temp.file("destination-pid"),
    logFile: null,
    runDir: temp.path,
    disks,
    pathFor: () => null,
    realPath: realPathOrNull,
    policy: {
      readFolders: [],
      writeFolders: [],
      bridges: [],
      allowVnc: false,
      overrides: new Map(),
    },
  };
}

/** A QEMU that went to the background. */
class Daemon implements AsyncDisposable {
  readonly qmp: QmpClient;

  private constructor(qmp: QmpClient) {
    this.qmp = qmp;
  }

  static async start(
    temp: TempDir,
    { argv, signal }: { argv: string[]; signal: AbortSignal },
  ): Promise<Daemon> {
    await run(["qemu-system-x86_64", "-accel", "tcg", ...argv], signal);
    return new Daemon(await QmpClient.connect(temp.file("destination-qmp"), { signal }));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const ended = Promise.withResolvers<void>();
    this.qmp.ended.addEventListener("abort", () => ended.resolve());
    if (!this.qmp.ended.aborted) await this.qmp.execute("quit");
    await ended.promise;
    await this.qmp.close();
  }
}

/** Every object of the machine with its type, its drives, and its PCI functions. */
async function describeMachine(qmp: QmpClient, signal: AbortSignal) {
  const objects: string[] = [];
  const walk = async (path: string): Promise<void> => {
    for (const { name, type } of await qmp.execute("qom-list", { path }, { signal })) {
      const child = /^child<(.*)>$/.exec(type)?.[1];
      if (child === undefined) continue;
      objects.push(`${path}/${name} ${child}`);
      // Regions are made by the devices that are compared, and are very many.
      if (!/memory-region$|^irq$/.test(child)) await walk(`${path}/${name}`);
    }
  };
  await walk("/machine");
  const blocks = await qmp.execute("query-block", {}, { signal });
  const graphics = await qmp.execute(
    "qom-get",
    { path: "/machine", property: "graphics" },
    { signal },
  );
  return {
    graphics,
    objects: objects.sort(),
    drives: blocks.filter(({ qdev }) => qdev).map(({ qdev, inserted, removable }) => ({
      qdev,
      removable,
      format: inserted?.drv ?? null,
      readOnly: inserted?.ro ?? null,
      sizeBytes: inserted?.image["virtual-size"] ?? null,
    })),
    pci: (await listPci(qmp, signal)).sort(),
  };
}

async function listPci(qmp: QmpClient, signal: AbortSignal): Promise<string[]> {
  interface PciDevice {
    bus: number;
    slot: number;
    function: number;
    qdev_id: string;
    id: { device: number; vendor: number };
  }
  const buses = await qmp.execute("query-pci", {}, { signal }) as { devices: PciDevice[] }[];
  return buses.flatMap(({ devices }) =>
    devices.map((device) =>
      `${device.bus}:${device.slot}.${device.function} ${device.id.vendor}:${device.id.device} ` +
      device.qdev_id
    )
  );
}

/** A migration without disks: it fails unless both machines have the same memory and devices. */
async function moveState(
  source: QmpClient,
  { destination, temp, signal }: { destination: Daemon; temp: TempDir; signal: AbortSignal },
): Promise<void> {
  const uri = `unix:${temp.file("migration")}`;
  const capabilities = [{ capability: "events", state: true }];
  for (const qmp of [source, destination.qmp]) {
    await qmp.execute("migrate-set-capabilities", { capabilities }, { signal });
  }
  using events = destination.qmp.subscribe("MIGRATION");
  await destination.qmp.execute("migrate-incoming", { uri }, { signal });
  await source.execute("migrate", { uri }, { signal });
  const last = await events.next(
    signal,
    ({ data }) => ["completed", "failed"].includes(String(data.status)),
  );
  assertEquals(last.data.status, "completed");
}
