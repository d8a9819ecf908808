// The link between the hosts is cut for good: frames vanish, nothing is refused or reset, as with a dead
// switch. Both sides must notice by themselves; the source's guest stands still for a moment at most and
// runs on, nothing is left anywhere, and once the link is back the next try succeeds.

import { assertLess } from "@std/assert";
import { abortable } from "../../src/base/deadline.ts";
import type { Agent } from "../lib/agents.ts";
import { makeImage, makeNoise } from "../lib/disks.ts";
import { attach, failToMove, makeBootDisk, move, startGuest } from "../lib/moving.ts";
import { TestNet } from "../lib/netns.ts";
import { requires } from "../lib/requires.ts";
import { TestSite } from "../lib/site.ts";
import { StallMeter } from "../lib/stall_meter.ts";
import { TempDir } from "../lib/temp.ts";

const MIB = 2 ** 20;
const DATA_BYTES = 24 * MIB;
/** Above what the agents allow a silent peer (3 s), far below TCP's own patience of minutes. */
const NOTICE_MS = 15_000;
/** Where the source stands still, its guest stopped, the mirrors still to be ended. */
const SWITCHOVER = "source.switchover.finish_mirrors.before";

/** What holds each phase open for as long as it takes, and what its guest may stand still. */
const PHASES = {
  mirror: { send: ["--disk-bandwidth", "1M"], stallMs: 2000 },
  ram: { send: ["--ram-bandwidth", "100K"], stallMs: 2000 },
  switchover: { send: ["--fail-at", `${SWITCHOVER}:hold`], stallMs: 5000 },
};
type Phase = keyof typeof PHASES;

const newer = Deno.env.get("QEMU_NEWER");

for (const binary of ["qemu-system-x86_64", newer]) {
  const version = binary === newer ? "a newer QEMU" : "the installed QEMU";
  Deno.test({
    name: `the link is lost, with the disks, ${version}`,
    ...requires("root", "ip", "qemu-img", binary ?? "a newer QEMU in QEMU_NEWER"),
    async fn(t) {
      const signal = AbortSignal.timeout(240_000);
      await using net = await TestNet.create(signal);
      await using temp = await TempDir.create();
      const paths = ["boot.raw", "data.raw"].map((name) => temp.file(name));
      await makeBootDisk(paths[0]!, { signal });
      const content = makeNoise(DATA_BYTES);
      await makeImage(paths[1]!, { format: "raw", sizeBytes: DATA_BYTES, content, signal });
      const { netns } = net.left;
      await using source = await startGuest(attach(...paths), { signal, netns, binary: binary! });
      // One that is not installed has its firmware beside it (`-L`).
      const itsFolder = new URL(".", `file://${binary}`).pathname;
      const receive = binary === newer ? ["--qemu", newer!, "--allow-dir", itsFolder] : [];

      for (const way of ["direct", "tunnel"]) {
        for (const phase of Object.keys(PHASES) as Phase[]) {
          await t.step(`${way}, in phase ${phase}: the guest runs on at the source`, async () => {
            const { send, stallMs } = PHASES[phase];
            await using site = await TestSite.create(net);
            await using meter = await StallMeter.start(source, { signal });
            await failToMove(site, {
              source,
              receive,
              send: ["-q", "--nbd", way, ...send],
              codes: { sender: 7, receiver: 7 },
              error: "peer_silent",
              signal,
              disturb: async (sender: Agent) => {
                await waitFor(phase, sender);
                await net.cut(signal);
                meter.reset();
                const began = performance.now();
                if (phase === "switchover") sender.kill("SIGUSR1");
                await abortable(sender.ended, signal);
                assertLess(performance.now() - began, NOTICE_MS);
              },
            });
            await net.restore(signal);
            const { longestMs, blindMs } = meter;
            console.log(`${version}, ${way}, ${phase}: ${longestMs} ms (blind ${blindMs} ms)`);
            assertLess(longestMs - blindMs, stallMs);
          });
        }
      }

      await t.step("with the link back the next try succeeds", async () => {
        await using site = await TestSite.create(net);
        await using moved = await move(site, { source, receive, signal });
        await moved.guest.end(signal);
      });
    },
  });
}

/** Waits until the sender is in that phase. */
async function waitFor(phase: Phase, sender: Agent): Promise<void> {
  switch (phase) {
    case "mirror":
      await sender.waitFor("disk_progress", (line) => line.done_bytes > 0);
      break;
    case "ram":
      await sender.waitFor("ram_progress", (line) => line.transferred_bytes > 0);
      break;
    case "switchover":
      await sender.waitFor("warning", ({ code }) => code === "fault_point");
  }
}
