// The place of one benchmark run: a source QEMU with the tiny guest and one disk, a destination host,
// and a QEMU there that the benchmark hears by a monitor of its own, whoever starts it.

import { abortable } from "../../src/base/deadline.ts";
import { makeBootProgram, type TinyGuestOptions } from "../../src/demo_guest/guest.ts";
import { QmpClient } from "../../src/qmp/client.ts";
import { run } from "../lib/command.ts";
import { makeNoise } from "../lib/disks.ts";
import { TestSite } from "../lib/site.ts";
import { TempDir } from "../lib/temp.ts";
import { TestVm } from "../lib/vm.ts";

const MIB = 2 ** 20;
const NOISE_BYTES = 64 * MIB;
const DISK_NAME = "boot.raw";

/** One guest with its load. */
export interface BenchCase {
  name: string;
  about: string;
  memoryMib: number;
  guest: TinyGuestOptions;
  disk: { sizeMib: number; dataMib: number };
  /** How often the guest must have been through its memory before it is moved. */
  lapsBefore: number;
}

/** The disk of a case, made once: what every run starts from. */
export async function makeTemplate(path: string, { guest, disk }: BenchCase): Promise<void> {
  const noise = makeNoise(NOISE_BYTES);
  using file = await Deno.open(path, { write: true, createNew: true });
  for (let mib = 0; mib < disk.dataMib; mib += NOISE_BYTES / MIB) {
    await writeAt(file, { bytes: noise, at: mib * MIB });
  }
  await writeAt(file, { bytes: makeBootProgram(guest), at: 0 });
  await file.truncate(disk.sizeMib * MIB);
}

export class Scene implements AsyncDisposable {
  readonly source: TestVm;
  readonly site: TestSite;
  readonly sourceDisk: string;
  readonly targetDisk: string;
  /** The machine's arguments at the destination, for whoever starts it by hand. */
  readonly machine: (disk: string) => string[];
  /** A QEMU that connects to this benchmark when it is started to wait for a migration. */
  readonly qemu: string;
  readonly #resources: AsyncDisposableStack;
  readonly #listener: Deno.UnixListener;

  private constructor(resources: AsyncDisposableStack, parts: {
    source: TestVm;
    site: TestSite;
    sourceDisk: string;
    machine: (disk: string) => string[];
    qemu: string;
    listener: Deno.UnixListener;
  }) {
    this.#resources = resources;
    this.source = parts.source;
    this.site = parts.site;
    this.sourceDisk = parts.sourceDisk;
    this.targetDisk = `${parts.site.disks}/${DISK_NAME}`;
    this.machine = parts.machine;
    this.qemu = parts.qemu;
    this.#listener = parts.listener;
  }

  /** A running guest on a copy of `template`, and a destination with nothing on it. */
  static async create(
    benchCase: BenchCase,
    { template, signal }: { template: string; signal: AbortSignal },
  ): Promise<Scene> {
    await using resources = new AsyncDisposableStack();
    const temp = resources.use(await TempDir.create());
    const site = resources.use(await TestSite.create());
    const sourceDisk = temp.file(DISK_NAME);
    await run(["cp", "--sparse=always", template, sourceDisk], signal);
    await run(["sync", sourceDisk], signal); // or its writing back goes on during the measurement
    const machine = (disk: string) => [
      ...["-nodefaults", "-m", String(benchCase.memoryMib)],
      ...["-drive", `file=${disk},format=raw,if=none,id=d0,discard=unmap`],
      ...["-device", "ide-hd,drive=d0,id=b0,bootindex=1"],
    ];
    const listener = resources.use(
      Deno.listen({ transport: "unix", path: site.file("bench-monitor") }),
    );
    const qemu = site.file("qemu-system-x86_64");
    await Deno.writeTextFile(qemu, wrapperScript(site.file("bench-monitor")), { mode: 0o700 });
    const source = resources.use(await TestVm.start(machine(sourceDisk), { signal }));
    while ((await source.waitForCountAbove(10, signal)).laps < benchCase.lapsBefore) {
      const { count } = await source.readGuest(signal);
      await source.waitForCountAbove(count, signal);
    }
    const parts = { source, site, sourceDisk, machine, qemu, listener };
    return new Scene(resources.move(), parts);
  }

  /** The benchmark's own monitor of the destination's QEMU, as soon as there is one. */
  async openDestination(signal: AbortSignal): Promise<QmpClient> {
    const conn = await abortable(this.#listener.accept(), signal);
    const qmp = await QmpClient.open("benchmark monitor", conn, { signal });
    this.#resources.defer(async () => {
      await qmp.close();
    });
    return qmp;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#resources.disposeAsync();
  }
}

/** QEMU, but for one monitor more in the process that waits for a migration. */
function wrapperScript(monitor: string): string {
  return `#!/bin/sh
case " $* " in *" -incoming "*)
  set -- "$@" -chardev socket,id=bench,path=${monitor} -mon chardev=bench,mode=control ;;
esac
exec qemu-system-x86_64 "$@"
`;
}

async function writeAt(
  file: Deno.FsFile,
  { bytes, at }: { bytes: Uint8Array; at: number },
): Promise<void> {
  await file.seek(at, Deno.SeekMode.Start);
  for (let done = 0; done < bytes.length;) done += await file.write(bytes.subarray(done));
}
