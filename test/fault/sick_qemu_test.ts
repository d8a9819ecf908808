// A QEMU that dies in the middle of a migration, on either side, in every phase. docs/faults.md has
// the outcomes.

import { assertEquals } from "@std/assert";
import {
  assertGoesOn,
  assertUntouched,
  attach,
  makeBootDisk,
  move,
  readBaseline,
  startGuest,
} from "../lib/moving.ts";
import { requires } from "../lib/requires.ts";
import { TestSite } from "../lib/site.ts";
import { TempDir } from "../lib/temp.ts";
import { assertEnds, goOn, holdAt, moveDisturbed, waitHeld } from "./sick_moves.ts";

/** Where the sender stands still while a QEMU dies, one point a phase up to the guest's arrival. */
const POINTS = [
  "source.params.prepare.after",
  "source.mirror.wait_ready.after",
  "source.ram.start_ram.before",
  "source.ram.wait_stopped.after",
  "source.switchover.finish_mirrors.after",
];
/** All that the guest is has arrived: the source is not needed any more. */
const ARRIVED = "source.handover.hand_over.before";

Deno.test({
  name: "the source's QEMU dies",
  ...requires("qemu-system-x86_64", "qemu-img"),
  async fn(t) {
    const signal = AbortSignal.timeout(120_000);
    await using temp = await TempDir.create();
    const path = temp.file("boot.raw");
    await makeBootDisk(path, { signal });

    for (const point of POINTS) {
      await t.step(`at ${point}: the guest is gone, nothing is left`, async () => {
        await using site = await TestSite.create();
        // Started anew each time from the disk that the one before died with.
        await using source = await startGuest(attach(path), { signal });
        const ends = await moveDisturbed(site, {
          source,
          send: ["-q", ...holdAt(point)],
          async disturb(sender) {
            await waitHeld(sender);
            source.kill("SIGKILL");
          },
          signal,
        });
        assertEnds(ends, {
          codes: [4, 4],
          error: "source_qemu_ended",
          says: /The guest's QEMU is gone, and the guest with it/,
          guest: { owner: "source", running: false },
        });
        await site.assertEmpty();
      });
    }
    await t.step("when somebody ends it, that is said", async () => {
      await using site = await TestSite.create();
      await using source = await startGuest(attach(path), { signal });
      const ends = await moveDisturbed(site, {
        source,
        send: ["-q", ...holdAt("source.mirror.wait_ready.after")],
        async disturb(sender) {
          await waitHeld(sender);
          source.kill("SIGTERM");
        },
        signal,
      });
      assertEnds(ends, {
        codes: [4, 4],
        error: "source_qemu_ended",
        says: /Somebody ended the guest's QEMU .*host-signal/,
        guest: { owner: "source", running: false },
      });
      await site.assertEmpty();
    });
    await t.step(`at ${ARRIVED}: the guest goes on at the destination`, async () => {
      await using site = await TestSite.create();
      await using source = await startGuest(attach(path), { signal });
      const ends = await moveDisturbed(site, {
        source,
        send: ["-q", ...holdAt(ARRIVED)],
        async disturb(sender) {
          await waitHeld(sender);
          source.kill("SIGKILL");
          await source.ended;
          goOn(sender);
        },
        signal,
      });
      const { account, lines } = ends.sent;
      assertEquals([ends.sent.code, ends.received.code], [0, 0], ends.said);
      assertEquals([account?.owner, account?.running], ["destination", true]);
      const warned = lines.filter((line) => line.type === "warning" && line.phase === "end");
      assertEquals(warned.length, 1, ends.said);
      await using guest = await site.openGuest(account!, signal);
      await assertGoesOn(guest.qmp, { since: ends.since, signal });
    });
  },
});

Deno.test({
  name: "the destination's QEMU dies",
  ...requires("qemu-system-x86_64", "qemu-img"),
  async fn(t) {
    const signal = AbortSignal.timeout(120_000);
    await using temp = await TempDir.create();
    const path = temp.file("boot.raw");
    await makeBootDisk(path, { signal });
    await using source = await startGuest(attach(path), { signal });

    for (const point of [...POINTS, ARRIVED]) {
      await t.step(`at ${point}: the guest runs on at the source`, async () => {
        await using site = await TestSite.create();
        const before = await readBaseline(source.monitor, signal);
        const ends = await moveDisturbed(site, {
          source,
          send: ["-q", ...holdAt(point)],
          async disturb(sender, receiver) {
            await waitHeld(sender);
            Deno.kill(await site.qemuPid(), "SIGKILL");
            await receiver.waitFor("account");
            if (point === ARRIVED) goOn(sender);
          },
          signal,
        });
        assertEnds(ends, {
          codes: [4, 4],
          error: errorsAt(point),
          guest: { owner: "source", running: true },
        });
        await assertUntouched(source, { before, signal });
        await site.assertEmpty();
      });
    }
    await t.step("and then it moves", async () => {
      await using site = await TestSite.create();
      await using _moved = await move(site, { source, signal });
    });
  },
});

/** Once something is connected to it, that may notice before the receiver has told. */
function errorsAt(point: string): string | string[] {
  if (point === ARRIVED) return "handover_refused";
  const told = "destination_qemu_ended";
  return point === POINTS[0] ? told : [told, "mirror_failed", "stream_reset"];
}
