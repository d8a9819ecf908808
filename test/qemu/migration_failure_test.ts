// What fails before the handover: whoever is killed or told to stop, in whichever phase, the source's
// guest runs on, nothing is left on either side, and the next try succeeds.

import { assertEquals } from "@std/assert";
import type { Agent } from "../lib/agents.ts";
import { run } from "../lib/command.ts";
import { makeImage, makeNoise } from "../lib/disks.ts";
import { attach, failToMove, makeBootDisk, move, startGuest } from "../lib/moving.ts";
import { requires } from "../lib/requires.ts";
import { TestSite } from "../lib/site.ts";
import { TempDir } from "../lib/temp.ts";

const MIB = 2 ** 20;
/** QEMU copies up to 16 MiB at once and then pauses for as long as its limit demands. */
const DATA_BYTES = 40 * MIB;

/** Limits that make a phase last longer than any test waits for. */
const HELD = {
  mirror: ["-q", "--disk-bandwidth", "1M"],
  ram: ["-q", "--ram-bandwidth", "100K"],
};
type HeldPhase = keyof typeof HELD;

interface Failure {
  who: "sender" | "receiver" | "the destination's QEMU";
  signal: Deno.Signal;
  codes: { sender: number; receiver: number };
  /** Null where either of two consequences may be the first to be seen. */
  error: Record<HeldPhase, string | null>;
}

const FAILURES: Failure[] = [
  {
    who: "sender",
    signal: "SIGINT",
    codes: { sender: 5, receiver: 5 },
    error: { mirror: "cancelled", ram: "cancelled" },
  },
  {
    who: "sender",
    signal: "SIGTERM",
    codes: { sender: 5, receiver: 5 },
    error: { mirror: "cancelled", ram: "cancelled" },
  },
  {
    who: "receiver",
    signal: "SIGINT",
    codes: { sender: 5, receiver: 5 },
    error: { mirror: "cancelled_by_peer", ram: "cancelled_by_peer" },
  },
  {
    who: "receiver",
    signal: "SIGTERM",
    codes: { sender: 5, receiver: 5 },
    error: { mirror: "cancelled_by_peer", ram: "cancelled_by_peer" },
  },
  {
    who: "the destination's QEMU",
    signal: "SIGKILL",
    codes: { sender: 4, receiver: 4 },
    error: { mirror: null, ram: null },
  },
  {
    who: "receiver",
    signal: "SIGKILL",
    codes: { sender: 7, receiver: 137 },
    error: { mirror: "connection_lost", ram: "connection_lost" },
  },
];

Deno.test({
  name: "migration that fails",
  ...requires("qemu-system-x86_64", "qemu-img"),
  async fn(t) {
    const signal = AbortSignal.timeout(120_000);
    await using temp = await TempDir.create();
    const paths = ["boot.raw", "data.raw"].map((name) => temp.file(name));
    // Its memory changes faster than the held phase sends it.
    await makeBootDisk(paths[0]!, { guest: { diskMask: 1, windowBytes: 4 * MIB }, signal });
    const content = makeNoise(DATA_BYTES);
    await makeImage(paths[1]!, { format: "raw", sizeBytes: DATA_BYTES, content, signal });
    await using source = await startGuest(attach(...paths), { signal });

    for (const phase of Object.keys(HELD) as HeldPhase[]) {
      for (const failure of FAILURES) {
        await t.step(`${failure.signal} of ${failure.who} in phase ${phase}`, async () => {
          await using site = await TestSite.create();
          await failToMove(site, {
            source,
            send: HELD[phase],
            codes: failure.codes,
            error: failure.error[phase],
            // A receiver that was killed cannot tidy up; its QEMU never runs by itself.
            leavesRemains: failure.who === "receiver" && failure.signal === "SIGKILL",
            async disturb(sender, receiver) {
              await waitInside(phase, sender);
              if (failure.who === "sender") sender.kill(failure.signal);
              else if (failure.who === "receiver") receiver.kill(failure.signal);
              else Deno.kill(await site.qemuPid(), failure.signal);
            },
            signal,
          });
        });
      }
    }
    await t.step({
      name: "the destination's file system fills up",
      ...requires("root"),
      async fn() {
        await using site = await TestSite.create();
        await run(["mount", "-t", "tmpfs", "-o", "size=44m", "tmpfs", site.disks], signal);
        try {
          await failToMove(site, {
            source,
            send: ["-q", "--disk-bandwidth", "16M"],
            codes: { sender: 4, receiver: 4 },
            error: "mirror_failed",
            disks: ["filler"],
            async disturb(sender) {
              await waitInside("mirror", sender);
              await fillUp(`${site.disks}/filler`);
            },
            signal,
          });
        } finally {
          await run(["umount", site.disks], signal);
        }
      },
    });
    await t.step("and then it moves", async () => {
      await using site = await TestSite.create();
      await using _moved = await move(site, { source, signal });
    });
  },
});

/** Waits until data flows in that phase. */
async function waitInside(phase: HeldPhase, sender: Agent): Promise<void> {
  if (phase === "mirror") await sender.waitFor("disk_progress", ({ done_bytes }) => done_bytes > 0);
  else await sender.waitFor("ram_progress", ({ transferred_bytes }) => transferred_bytes > 0);
}

async function fillUp(path: string): Promise<void> {
  using file = await Deno.open(path, { write: true, createNew: true });
  const zeros = new Uint8Array(MIB);
  try {
    for (;;) await file.write(zeros);
  } catch (error) {
    assertEquals(String(error).includes("os error 28"), true, String(error)); // ENOSPC
  }
}
