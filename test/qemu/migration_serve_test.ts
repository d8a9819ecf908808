// Receivers and their senders: many guests for one that serves, one for one that does not, and
// connections that are no senders at all.

import { assertEquals, assertNotEquals } from "@std/assert";
import { makeImage, makeNoise } from "../lib/disks.ts";
import { attach, failToMove, makeBootDisk, move, startGuest, startMove } from "../lib/moving.ts";
import { requires } from "../lib/requires.ts";
import { TestSite } from "../lib/site.ts";
import { TempDir } from "../lib/temp.ts";
import type { TestVm } from "../lib/vm.ts";

const MIB = 2 ** 20;
const limit = () => AbortSignal.timeout(60_000);

/** A guest of that name, its disk called after it. */
async function startNamed(temp: TempDir, name: string, signal: AbortSignal): Promise<TestVm> {
  const path = temp.file(`${name}.raw`);
  await makeBootDisk(path, { signal });
  return await startGuest(["-name", name, ...attach(path)], { signal });
}

/** What port scanners and mistaken clients do. */
async function makeNoiseAt(port: number): Promise<void> {
  const text = (words: string) => new TextEncoder().encode(words);
  const said = [new Uint8Array(), text("GET / HTTP/1.0\r\n\r\n"), makeNoise(5000)];
  for (const bytes of said) {
    using conn = await Deno.connect({ hostname: "127.0.0.1", port });
    try {
      await conn.write(bytes);
    } catch (error) {
      // Hanging up on it is a fair answer.
      const isHungUp = error instanceof Deno.errors.BrokenPipe ||
        error instanceof Deno.errors.ConnectionReset;
      if (!isHungUp) throw error;
    }
  }
}

Deno.test({
  name: "migration: one receiver serves two guests at once, and then a third, amid noise",
  ...requires("qemu-system-x86_64", "qemu-img"),
  async fn() {
    const signal = limit();
    await using temp = await TempDir.create();
    await using site = await TestSite.create();
    const receiver = await site.receive(["--serve"], signal);
    await makeNoiseAt(receiver.port);
    await using a = await startNamed(temp, "a", signal);
    await using b = await startNamed(temp, "b", signal);
    const both = await Promise.all(
      [a, b].map((source) => move(site, { source, receiver, signal })),
    );
    const pids = both.map(({ sender }) => sender.account!.pid);
    assertNotEquals(pids[0], pids[1]);
    await Promise.all(both.map((moved) => moved[Symbol.asyncDispose]()));
    // Held connections that say nothing count for nothing either.
    using _silent = await Deno.connect({ hostname: "127.0.0.1", port: receiver.port });
    await using c = await startNamed(temp, "c", signal);
    await using _third = await move(site, { source: c, receiver, signal });
    receiver.agent.kill("SIGTERM");
    const { code, lines } = await receiver.agent.expectEnd(0);
    const outcomes = lines.flatMap((line) => line.type === "account" ? line.outcome : []);
    assertEquals([code, outcomes], [0, ["completed", "completed", "completed"]]);
    await site.assertNoTemporaryFiles();
  },
});

Deno.test({
  name: "migration: a receiver for one guest turns others away and is not disturbed by them",
  ...requires("qemu-system-x86_64", "qemu-img"),
  async fn() {
    const signal = limit();
    await using temp = await TempDir.create();
    await using site = await TestSite.create();
    await using a = await startNamed(temp, "a", signal);
    const content = makeNoise(24 * MIB);
    await makeImage(temp.file("data"), { format: "raw", sizeBytes: 24 * MIB, content, signal });
    await makeBootDisk(temp.file("big.raw"), { guest: { diskMask: 1 }, signal });
    const disks = attach(temp.file("big.raw"), temp.file("data"));
    await using big = await startGuest(["-name", "big", ...disks], { signal });
    const receiver = await site.receive(["--once"], signal);
    await makeNoiseAt(receiver.port);
    const send = ["-q", "--disk-bandwidth", "8M"];
    const { sender } = await startMove(site, { source: big, receiver, send, signal });
    await sender.waitFor("disk_progress", ({ done_bytes }) => done_bytes > 0);
    await makeNoiseAt(receiver.port);
    await failToMove(site, {
      source: a,
      receiver,
      codes: { sender: 3, receiver: null },
      error: "receiver_busy",
      signal,
    });
    await sender.expectEnd(0);
    await receiver.agent.expectEnd(0);
    await site.assertNoTemporaryFiles();
  },
});
