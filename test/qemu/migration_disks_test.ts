// What becomes of the disks: equal to the byte, thin where they were thin, shared or copied as asked,
// on block devices too; and what is refused before anything was changed.

import { assertEquals, assertLess } from "@std/assert";
import { run } from "../lib/command.ts";
import { allocatedBytes, assertSameDisk, makeImage } from "../lib/disks.ts";
import {
  assertGoesOn,
  attach,
  failToMove,
  formatOf,
  makeBootDisk,
  move,
  startGuest,
} from "../lib/moving.ts";
import { requires } from "../lib/requires.ts";
import { TestSite } from "../lib/site.ts";
import { TempDir } from "../lib/temp.ts";
import { readGuest } from "../lib/vm.ts";

const MIB = 2 ** 20;
const needs = requires("qemu-system-x86_64", "qemu-img");
const limit = () => AbortSignal.timeout(60_000);

Deno.test({
  name: "migration: a paused guest stays paused, its disks are equal and thin disks stay thin",
  ...needs,
  async fn() {
    const signal = limit();
    await using temp = await TempDir.create();
    await using site = await TestSite.create();
    const paths = ["boot.raw", "thin.raw", "thin.qcow2"].map((name) => temp.file(name));
    await makeBootDisk(paths[0]!, { sizeBytes: 10 * MIB + 512, signal });
    await makeImage(paths[1]!, { format: "raw", sizeBytes: 1024 * MIB, signal });
    await makeImage(paths[2]!, { format: "qcow2", sizeBytes: 1024 * MIB + 512, signal });
    await using source = await startGuest(attach(...paths), { signal });
    await source.monitor.execute("stop", {}, { signal });
    await using moved = await move(site, {
      source,
      send: ["-q", "--source-after", "paused"],
      signal,
    });
    assertEquals(moved.sender.account!.running, false);
    assertEquals(moved.sender.account!.downtime_ms, null);
    assertEquals(await source.runState(signal), "postmigrate");
    assertEquals((await moved.guest.qmp.execute("query-status", {}, { signal })).running, false);
    for (const path of paths) {
      const target = `${site.disks}/${path.split("/").at(-1)}`;
      const format = formatOf(path);
      await assertSameDisk({ path, format }, { path: target, format }, signal);
      assertLess(await allocatedBytes(target), await allocatedBytes(path) + MIB, target);
    }
    const { count } = await readGuest(moved.guest.qmp, signal);
    await moved.guest.qmp.execute("cont", {}, { signal });
    await assertGoesOn(moved.guest.qmp, { since: count, signal });
  },
});

Deno.test({
  name: "migration: shared disks stay where they are, alone or beside copied ones",
  ...needs,
  async fn() {
    const signal = limit();
    await using temp = await TempDir.create();
    const paths = ["boot.raw", "data.qcow2"].map((name) => temp.file(name));
    await makeBootDisk(paths[0]!, { signal });
    await makeImage(paths[1]!, { format: "qcow2", sizeBytes: 8 * MIB, signal });
    await using first = await startGuest(attach(...paths), { signal });
    const shared = ["--allow-dir", temp.path];

    await using siteB = await TestSite.create();
    await using atB = await move(siteB, { source: first, receive: shared, send: [], signal });
    const { phases, disks } = atB.sender.account!;
    assertEquals(phases.some(({ phase }) => phase === "mirror"), false);
    assertEquals(disks.map(({ action, path }) => [action, path]), paths.map((p) => ["shared", p]));

    const MIXES: [string[], string[]][] = [
      [["-q", "--exclude-disks", "d0"], ["shared", "mirror"]],
      [["-q", "--disks", "boot.raw"], ["mirror", "shared"]],
    ];
    let source = atB.guest;
    const sites: TestSite[] = [];
    try {
      for (const [send, actions] of MIXES) {
        const site = await TestSite.create();
        sites.push(site);
        const receive = sites.flatMap(({ disks }) => ["--allow-dir", disks]).concat(shared);
        const moved = await move(site, { source, receive, send, signal });
        assertEquals(moved.sender.account!.disks.map(({ action }) => action), actions);
        source = moved.guest;
      }
      await source.end(signal);
    } finally {
      await source[Symbol.asyncDispose]();
      for (const site of sites.reverse()) await site[Symbol.asyncDispose]();
    }
  },
});

Deno.test({
  name: "migration: from block device to block device",
  ...requires("qemu-system-x86_64", "qemu-img", "root", "losetup"),
  async fn(t) {
    const signal = limit();
    await using temp = await TempDir.create();
    await using site = await TestSite.create();
    await makeBootDisk(temp.file("boot.raw"), { signal });
    // A block device may be larger than the disk that it takes in.
    await makeImage(temp.file("target.raw"), { format: "raw", sizeBytes: 9 * MIB, signal });
    await using from = await LoopDevice.attach(temp.file("boot.raw"), signal);
    await using to = await LoopDevice.attach(temp.file("target.raw"), signal);
    await using source = await startGuest(attach(from.path), { signal });
    await t.step("refused unless it is meant", async () => {
      await failToMove(site, {
        source,
        receive: ["--disk", `d0=${to.path}`],
        codes: { sender: 3, receiver: 3 },
        error: "target_exists",
        signal,
      });
    });
    await using moved = await move(site, {
      source,
      receive: ["--disk", `d0=${to.path}`, "--reuse-disks"],
      signal,
    });
    assertEquals(moved.sender.account!.disks[0]!.path, to.path);
    await moved.guest.end(signal);
  },
});

class LoopDevice implements AsyncDisposable {
  readonly path: string;

  private constructor(path: string) {
    this.path = path;
  }

  static async attach(file: string, signal: AbortSignal): Promise<LoopDevice> {
    return new LoopDevice((await run(["losetup", "--find", "--show", file], signal)).trim());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await run(["losetup", "--detach", this.path], AbortSignal.timeout(5000));
  }
}
