// The link between the hosts is cut: frames vanish, nothing is refused or reset, as with a dead
// switch. Both sides must notice by themselves, the source's guest runs on, nothing is left anywhere,
// and once the link is back the next try succeeds.

import { assertLess } from "@std/assert";
import type { Agent } from "../lib/agents.ts";
import { makeImage, makeNoise } from "../lib/disks.ts";
import { attach, failToMove, makeBootDisk, move, startGuest } from "../lib/moving.ts";
import { TestNet } from "../lib/netns.ts";
import { requires } from "../lib/requires.ts";
import { TestSite } from "../lib/site.ts";
import { TempDir } from "../lib/temp.ts";
import { readGuest, type TestVm } from "../lib/vm.ts";

const MIB = 2 ** 20;
const DATA_BYTES = 24 * MIB;
/** Above what the agents allow a silent peer (5 s), far below TCP's own patience of minutes. */
const NOTICE_MS = 15_000;

/** The guest must not wait for a dead link; this is far above what a busy machine does to it. */
const STANDSTILL_MS = 4_000;

/** Limits that hold a phase open for as long as it takes. */
const HELD = {
  mirror: ["-q", "--disk-bandwidth", "1M"],
  ram: ["-q", "--ram-bandwidth", "100K"],
};

Deno.test({
  name: "the link is lost, with the disks",
  ...requires("root", "ip", "qemu-system-x86_64", "qemu-img"),
  async fn(t) {
    const signal = AbortSignal.timeout(240_000);
    await using net = await TestNet.create(signal);
    await using temp = await TempDir.create();
    const paths = ["boot.raw", "data.raw"].map((name) => temp.file(name));
    await makeBootDisk(paths[0]!, { signal });
    const content = makeNoise(DATA_BYTES);
    await makeImage(paths[1]!, { format: "raw", sizeBytes: DATA_BYTES, content, signal });
    const { netns } = net.left;
    await using source = await startGuest(attach(...paths), { signal, netns });

    for (const way of ["direct", "tunnel"]) {
      for (const phase of ["mirror", "ram"] as const) {
        await t.step(`${way}, in phase ${phase}: the guest runs on at the source`, async () => {
          await using site = await TestSite.create(net);
          const stall = new Stall(source);
          await failToMove(site, {
            source,
            send: [...HELD[phase], "--nbd", way],
            codes: { sender: 7, receiver: 7 },
            error: "peer_silent",
            signal,
            disturb: async (sender: Agent) => {
              await sender.waitFor(
                phase === "mirror" ? "disk_progress" : "ram_progress",
                (line) => line.phase === phase,
              );
              await net.cut(signal);
              const began = performance.now();
              await stall.watch(sender);
              assertLess(performance.now() - began, NOTICE_MS);
            },
          });
          await net.restore(signal);
          assertLess(stall.longestMs, STANDSTILL_MS);
        });
      }
    }

    await t.step("with the link back the next try succeeds", async () => {
      await using site = await TestSite.create(net);
      await using moved = await move(site, { source, signal });
      await moved.guest.end(signal);
    });
  },
});

/** For how long the guest's counter stands still, seen from outside. */
class Stall {
  longestMs = 0;
  readonly #source: TestVm;

  constructor(source: TestVm) {
    this.#source = source;
  }

  /** Watches until the agent has ended. */
  async watch(agent: Agent): Promise<void> {
    const stop = new AbortController();
    agent.ended.finally(() => stop.abort());
    let count = -1;
    let since = performance.now();
    while (!stop.signal.aborted) {
      const now = (await readGuest(this.#source.monitor, new AbortController().signal)).count;
      const at = performance.now();
      if (now !== count) since = at;
      count = now;
      this.longestMs = Math.max(this.longestMs, at - since);
      await new Promise((done) => setTimeout(done, 20)); // the guest's counter sends no event
    }
  }
}
