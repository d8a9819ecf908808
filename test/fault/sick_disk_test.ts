// Disks that fail, are full, slow or read-only, on either side of a migration. docs/faults.md has the
// outcomes. (A file system that fills up: test/qemu/migration_failure_test.ts.)

import { assertEquals, assertGreater, assertLess } from "@std/assert";
import { run } from "../lib/command.ts";
import { makeNoise } from "../lib/disks.ts";
import { attach, failToMove, makeBootDisk, move, startGuest } from "../lib/moving.ts";
import { requires } from "../lib/requires.ts";
import { TestSite } from "../lib/site.ts";
import { StallMeter } from "../lib/stall_meter.ts";
import { TempDir } from "../lib/temp.ts";
import { SICK_DISK_NEEDS, SickDisk } from "./sick_disk.ts";
import { goOn, holdAt, moveDisturbed, waitHeld } from "./sick_moves.ts";

const MIB = 2 ** 20;
const SIZE_BYTES = 8 * MIB;
/** In the middle of it. */
const BAD_SECTOR = SIZE_BYTES / 2 / 512;
/** Blocks that a slow target is to be behind when the guest is stopped. */
const BEHIND = 150;
const NEEDS = ["qemu-system-x86_64", "qemu-img", ...SICK_DISK_NEEDS] as const;

Deno.test({
  name: "disks with I/O errors",
  ...requires(...NEEDS),
  async fn(t) {
    const signal = AbortSignal.timeout(90_000);
    await using temp = await TempDir.create();
    const boot = temp.file("boot.raw");
    await makeBootDisk(boot, { guest: { diskMask: 1 }, signal });
    const noise = makeNoise(SIZE_BYTES);
    await using sick = await SickDisk.start(temp.file("data.raw"), {
      sizeBytes: SIZE_BYTES,
      content: noise,
      badSectors: [{ sector: BAD_SECTOR, on: "read" }],
      signal,
    });
    await using source = await startGuest(attach(boot, sick.path), { signal });

    await t.step("the source's cannot be read: the mirror ends, the guest runs on", async () => {
      await using site = await TestSite.create();
      const { error } = await failToMove(site, {
        source,
        codes: { sender: 4, receiver: 4 },
        error: "mirror_failed",
        signal,
      });
      assertEquals(error?.message, "The mirror of disk 'd1' ended: Input/output error");
    });
    await t.step("the target's cannot be written: the same", async () => {
      await using site = await TestSite.create();
      await using _target = await SickDisk.start(`${site.disks}/boot.raw`, {
        sizeBytes: SIZE_BYTES,
        badSectors: [{ sector: 0, on: "write" }],
        signal,
      });
      const { error } = await failToMove(site, {
        source,
        receive: ["--reuse-disks", "--allow-dir", temp.path],
        send: ["-q", "--exclude-disks", "d1"],
        codes: { sender: 4, receiver: 4 },
        error: "mirror_failed",
        disks: ["boot.raw"],
        signal,
      });
      assertEquals(error?.message, "The mirror of disk 'd0' ended: Input/output error");
    });
    await t.step("and then it moves without the sick one", async () => {
      await using site = await TestSite.create();
      await using _moved = await move(site, {
        source,
        receive: ["--allow-dir", temp.path],
        send: ["-q", "--exclude-disks", "d1"],
        signal,
      });
    });
  },
});

Deno.test({
  name: "places that cannot be written to",
  ...requires("qemu-system-x86_64", "qemu-img", "root"),
  async fn(t) {
    const signal = AbortSignal.timeout(60_000);
    await using temp = await TempDir.create();
    const boot = temp.file("boot.raw");
    await makeBootDisk(boot, { signal });
    await using source = await startGuest(attach(boot), { signal });
    const CASES = {
      "a read-only folder for new disks": {
        receive: [],
        disks: [],
        error: "target_not_created",
        says: /Cannot create target disk '.*boot.raw': .*Read-only file system/i,
      },
      "a disk on a read-only file system, used again": {
        receive: ["--reuse-disks"],
        disks: ["boot.raw"],
        error: "qmp_command_failed",
        says: /boot.raw.*Read-only file system/,
      },
    };
    for (const [name, { receive, disks, error: code, says }] of Object.entries(CASES)) {
      await t.step(name, async () => {
        await using site = await TestSite.create();
        await run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", site.disks], signal);
        try {
          for (const disk of disks) await makeBootDisk(`${site.disks}/${disk}`, { signal });
          await run(["mount", "-o", "remount,ro", site.disks], signal);
          const { error } = await failToMove(site, {
            source,
            receive,
            codes: { sender: 4, receiver: 4 },
            error: code,
            disks,
            signal,
          });
          assertEquals(says.test(error!.message), true, error!.message);
        } finally {
          await run(["umount", "--lazy", site.disks], signal);
        }
      });
    }
    await t.step("and then it moves", async () => {
      await using site = await TestSite.create();
      await using _moved = await move(site, { source, signal });
    });
  },
});

Deno.test({
  name: "slow targets",
  ...requires(...NEEDS),
  async fn(t) {
    const signal = AbortSignal.timeout(120_000);
    await using temp = await TempDir.create();
    const boot = temp.file("boot.raw");
    // Fifty writes a second, all over the disk.
    await makeBootDisk(boot, { guest: { slots: 256, turnMs: 20 }, signal });
    await using source = await startGuest(attach(boot), { signal });
    const receive = ["--reuse-disks"];

    await t.step("slower than the guest writes: never in sync, ends by --timeout", async () => {
      await using site = await TestSite.create();
      await using _target = await SickDisk.start(`${site.disks}/boot.raw`, {
        sizeBytes: SIZE_BYTES,
        requestsPerS: 10,
        signal,
      });
      await using meter = await StallMeter.start(source, { signal });
      await failToMove(site, {
        source,
        receive,
        send: ["-q", "--timeout", "4s"],
        codes: { sender: 8, receiver: 8 },
        error: "timeout",
        disks: ["boot.raw"],
        signal,
      });
      assertLess(meter.longestMs, 2000 + meter.blindMs);
    });
    await t.step("that falls behind just before the stop: moves, with a longer pause", async () => {
      await using site = await TestSite.create();
      await using target = await SickDisk.start(`${site.disks}/boot.raw`, {
        sizeBytes: SIZE_BYTES,
        signal,
      });
      const { sent, said } = await moveDisturbed(site, {
        source,
        receive,
        send: ["-q", ...holdAt("source.mirror.wait_ready.after")],
        async disturb(sender) {
          await waitHeld(sender);
          await target.limit(2, signal); // behind, however slow the guest itself is here
          const { count } = await source.readGuest(signal);
          await source.waitForCountAbove(count + BEHIND, signal);
          await target.limit(40, signal);
          goOn(sender);
        },
        signal,
      });
      assertEquals([sent.code, sent.account?.owner], [0, "destination"], said);
      // The most of what it was behind, at forty a second.
      assertGreater(sent.account!.downtime_ms!, 1000);
      await target.limit(0, signal);
      await using guest = await site.openGuest(sent.account!, signal);
      await guest.end(signal); // before its disk does
    });
  },
});
