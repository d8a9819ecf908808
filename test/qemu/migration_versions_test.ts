// A newer QEMU beside the installed one, named by the environment's QEMU_NEWER: a guest moves up to
// it, and on from one of it to another. Without it these tests are skipped.

import { assertEquals } from "@std/assert";
import { makeImage } from "../lib/disks.ts";
import { attach, makeBootDisk, move, startGuest } from "../lib/moving.ts";
import { requires } from "../lib/requires.ts";
import { TestSite } from "../lib/site.ts";
import { TempDir } from "../lib/temp.ts";

const newer = Deno.env.get("QEMU_NEWER");

for (
  const [from, binary] of [["the installed QEMU", "qemu-system-x86_64"], ["itself", newer]] as const
) {
  Deno.test({
    name: `migration: from ${from} to a newer QEMU`,
    ...requires("qemu-system-x86_64", "qemu-img", newer ?? "a newer QEMU in QEMU_NEWER"),
    async fn() {
      const signal = AbortSignal.timeout(60_000);
      await using temp = await TempDir.create();
      await using site = await TestSite.create();
      const paths = ["boot.raw", "data.qcow2"].map((name) => temp.file(name));
      await makeBootDisk(paths[0]!, { signal });
      await makeImage(paths[1]!, { format: "qcow2", sizeBytes: 8 * 2 ** 20, signal });
      await using source = await startGuest(attach(...paths), { signal, binary: binary! });
      // One that is not installed has its firmware beside it (`-L`).
      const itsFolder = new URL(".", `file://${newer}`).pathname;
      const receive = ["--qemu", newer!, "--allow-dir", itsFolder];
      await using moved = await move(site, { source, receive, signal });
      assertEquals(moved.sender.account!.disks.map(({ action }) => action), ["mirror", "mirror"]);
    },
  });
}
