// What is refused before anything was changed on either host, with the reason that the sender gives.

import { assertStringIncludes } from "@std/assert";
import { run } from "../lib/command.ts";
import { makeImage, makeNoise } from "../lib/disks.ts";
import { attach, failToMove, makeBootDisk, move, startGuest } from "../lib/moving.ts";
import { requires } from "../lib/requires.ts";
import { TestSite } from "../lib/site.ts";
import { TempDir } from "../lib/temp.ts";
import type { TestVm } from "../lib/vm.ts";

const MIB = 2 ** 20;
const limit = () => AbortSignal.timeout(60_000);

interface Refusal {
  name: string;
  error: string;
  /** A part of the sender's message. */
  says: string;
  /** False when the sender finds out by itself. */
  isAsked?: boolean;
  receive?: (site: TestSite) => string[];
  send?: string[];
  prepare?: (site: TestSite, signal: AbortSignal) => Promise<AsyncDisposable | void>;
  /** Files among the destination's disks before and after. */
  disks?: string[];
}

const REFUSALS: Refusal[] = [
  {
    name: "a target that exists",
    error: "target_exists",
    says: "boot.raw",
    prepare: (site) => Deno.writeTextFile(`${site.disks}/boot.raw`, "somebody's"),
    disks: ["boot.raw"],
  },
  {
    name: "a target of another size",
    error: "target_size",
    says: "boot.raw",
    receive: () => ["--reuse-disks"],
    prepare: (site, signal) =>
      makeImage(`${site.disks}/boot.raw`, { format: "raw", sizeBytes: MIB, signal }),
    disks: ["boot.raw"],
  },
  {
    name: "a target that somebody has open",
    error: "target_in_use",
    says: `process ${Deno.pid}`,
    receive: () => ["--reuse-disks"],
    async prepare(site) {
      const path = `${site.disks}/boot.raw`;
      const file = await Deno.open(path, { write: true, create: true });
      await file.truncate(8 * MIB);
      return { [Symbol.asyncDispose]: () => Promise.resolve(file.close()) };
    },
    disks: ["boot.raw"],
  },
  {
    name: "two disks for one place",
    error: "target_twice",
    says: "same.raw",
    receive: (site) => [
      ...["--disk", `d0=${site.disks}/same.raw`],
      ...["--disk", `d1=${site.disks}/same.raw`],
    ],
  },
  {
    name: "a folder that is not there",
    error: "no_such_folder",
    says: "/absent",
    receive: (site) => ["--disk-dir", site.disks, "--disk", `d0=${site.disks}/absent/boot.raw`],
  },
  {
    name: "a file system without enough room",
    error: "disk_full",
    says: "bytes needed",
    async prepare(site, signal) {
      await run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", site.disks], signal);
      const unmount = () => run(["umount", site.disks], limit()).then(() => {});
      return { [Symbol.asyncDispose]: unmount };
    },
  },
  {
    name: "a disk that the guest does not have",
    error: "unknown_disk",
    says: "'d7'",
    isAsked: false,
    send: ["-q", "--exclude-disks", "d7"],
  },
  {
    name: "shared disks in a folder that is not allowed",
    error: "disk_outside_folders",
    says: "boot.raw",
    send: [],
  },
];

Deno.test({
  name: "migration refused",
  ...requires("qemu-system-x86_64", "qemu-img", "root"),
  async fn(t) {
    const signal = limit();
    await using temp = await TempDir.create();
    const paths = ["boot.raw", "data.raw"].map((name) => temp.file(name));
    await makeBootDisk(paths[0]!, { guest: { diskMask: 1 }, signal });
    const content = makeNoise(4 * MIB);
    await makeImage(paths[1]!, { format: "raw", sizeBytes: 4 * MIB, content, signal });
    await using source = await startGuest(attach(...paths), { signal });
    for (const refusal of REFUSALS) {
      await t.step(refusal.name, () => checkRefusal(refusal, { source, signal }));
    }
    await t.step("and then it moves", async () => {
      await using site = await TestSite.create();
      await using _moved = await move(site, { source, signal });
    });
  },
});

async function checkRefusal(
  { error, says, isAsked = true, receive, send = ["-q"], prepare, disks = [] }: Refusal,
  { source, signal }: { source: TestVm; signal: AbortSignal },
): Promise<void> {
  await using site = await TestSite.create();
  await using _prepared = await prepare?.(site, signal) ?? null;
  const end = await failToMove(site, {
    source,
    receive: receive?.(site) ?? [],
    send,
    codes: { sender: 3, receiver: isAsked ? 3 : null },
    error,
    disks,
    signal,
  });
  assertStringIncludes(end.error!.message, says);
}

Deno.test({
  name: "migration refused: a command line that does not say what the machine is",
  ...requires("qemu-system-x86_64", "qemu-img"),
  async fn(t) {
    const signal = limit();
    await using temp = await TempDir.create();
    await Deno.mkdir(temp.file("other"));
    const paths = ["boot.raw", "other/boot.raw"].map((name) => temp.file(name));
    for (const path of paths) await makeBootDisk(path, { signal });
    await using source = await startGuest(attach(...paths), { signal });
    await t.step(
      "disks of the same file name for one folder",
      () => checkRefusal({ name: "", error: "target_twice", says: "boot.raw" }, { source, signal }),
    );
    await t.step("a device that was plugged in", async () => {
      const args = { driver: "virtio-rng-pci", id: "rng7" };
      await source.monitor.execute("device_add", args, { signal });
      const send = ["-q", "--exclude-disks", "d1"];
      const receive = () => ["--allow-dir", temp.path];
      const refusal = { name: "", error: "hot_plugged_device", says: "'rng7'", receive, send };
      await checkRefusal(refusal, { source, signal });
    });
  },
});

Deno.test({
  name: "migration refused: a device that QEMU cannot move (NVMe)",
  ...requires("qemu-system-x86_64", "qemu-img"),
  async fn() {
    const signal = limit();
    await using temp = await TempDir.create();
    await makeBootDisk(temp.file("boot.raw"), { signal });
    const drive = `file=${temp.file("boot.raw")},format=raw,if=none,id=d0`;
    const args = ["-nodefaults", "-drive", drive, "-device", "nvme,drive=d0,serial=1"];
    await using source = await startGuest(args, { signal });
    const refusal = { name: "", error: "migration_blocked", says: "nvme", isAsked: false };
    await checkRefusal(refusal, { source, signal });
  },
});
