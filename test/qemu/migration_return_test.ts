// There and back again: a guest that was moved is a guest that can be moved, from the QEMU that the
// receiver launched, onto the disks that it left behind.

import { assertEquals } from "@std/assert";
import { makeImage } from "../lib/disks.ts";
import { attach, makeBootDisk, move, startGuest } from "../lib/moving.ts";
import { requires } from "../lib/requires.ts";
import { ArrivedGuest, TestSite } from "../lib/site.ts";
import type { TestVm } from "../lib/vm.ts";

const ROUNDS = 3;

Deno.test({
  name: `migration: there and back ${ROUNDS} times`,
  ...requires("qemu-system-x86_64", "qemu-img"),
  async fn() {
    const signal = AbortSignal.timeout(90_000);
    await using siteA = await TestSite.create();
    await using siteB = await TestSite.create();
    const paths = [`${siteA.disks}/boot.raw`, `${siteA.disks}/data.qcow2`];
    await makeBootDisk(paths[0]!, { signal });
    await makeImage(paths[1]!, { format: "qcow2", sizeBytes: 8 * 2 ** 20, signal });
    await using first = await startGuest(["-name", "traveller", ...attach(...paths)], { signal });
    let source: TestVm | ArrivedGuest = first;
    for (let trip = 0; trip < 2 * ROUNDS; trip++) {
      const site = trip % 2 === 0 ? siteB : siteA;
      const receive = trip === 0 ? [] : ["--reuse-disks"];
      const moved = await move(site, { source, receive, signal });
      assertEquals(moved.sender.account!.disks.map(({ path }) => path), [
        `${site.disks}/boot.raw`,
        `${site.disks}/data.qcow2`,
      ]);
      // Of the guest itself nothing stays where it was; where it came to be, its folder does.
      const left = trip === 0 ? [] : [...Deno.readDirSync(site === siteA ? siteB.run : siteA.run)];
      assertEquals(left, []);
      source = moved.guest;
    }
    assertEquals((await first.ended).code, 0);
    if (source instanceof ArrivedGuest) await source.end(signal);
  },
});
