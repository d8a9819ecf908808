// What an operator does from another shell while a Xen guest moves: looks at it, changes its limits,
// ends it; and gives the same command once more when the sender was killed.

import { assertEquals, assertGreater, assertMatch } from "@std/assert";
import { abortable } from "../../src/base/deadline.ts";
import {
  assertGoesOn,
  assertInOrder,
  countOn,
  DISK_DIR,
  moveDomain,
  prepareHosts,
  programInDom0,
  startMove,
} from "./lib/xen_agents.ts";
import { readStatus } from "./lib/xen_faults.ts";
import { startGuest } from "./lib/xen_guest.ts";
import { requiresXen, type XenHost } from "./lib/xen_host.ts";
import { XenPair } from "./lib/xen_pair.ts";

const BOOT_MS = 240_000;
const CASE_MS = 400_000;
const REFUSED = 3;
const CANCELLED = 5;

Deno.test({
  name: "Xen: `cancel`, `set`, and the same command again",
  ...requiresXen(),
  async fn(t) {
    const boot = AbortSignal.timeout(BOOT_MS);
    await using pair = await XenPair.boot({ signal: boot });
    const { a, b } = pair;
    await prepareHosts(pair, boot);
    const disk = { path: "/var/g1.img", format: "raw", vdev: "hda", backend: "qdisk" } as const;
    await startGuest(a, { name: "g1", disks: [disk], signal: boot });
    const leg = { from: a, to: b, guest: "g1" };

    const assertHome = async (signal: AbortSignal) => {
      await assertInOrder(b, { domains: [], signal });
      await assertInOrder(a, { domains: ["g1"], signal });
      await assertGoesOn(a, { since: countOn(a), signal });
      assertEquals(await b.check(`ls ${DISK_DIR}`, { signal }), "", "new disks are removed");
    };

    for (const [host, where] of [[a, "source"], [b, "destination"]] as const) {
      await t.step(`cancelled at the ${where}, in the memory`, async () => {
        const signal = AbortSignal.timeout(CASE_MS);
        // Slower than anybody waits for.
        const send = ["-q", "--ram-bandwidth", "64K"];
        const { sender, receiver } = await startMove({ ...leg, send, signal });
        await sender.agent.waitFor("ram_progress");
        const id = await findMigration(host, signal);
        assertEquals((await operate(host, ["cancel", id], signal)).code, 0);
        await sender.agent.expectEnd(CANCELLED);
        await receiver.agent.expectEnd(CANCELLED);
        assertEquals((await operate(host, ["cancel", id], signal)).code, REFUSED);
        await assertHome(signal);
      });
    }

    await t.step("killed while suspended, and the same command again", async () => {
      const signal = AbortSignal.timeout(CASE_MS);
      const failAt = ["--fail-at", "source.switchover.finish_mirrors.before:kill"];
      const killed = await startMove({ ...leg, send: ["-q", ...failAt], signal });
      await abortable(
        Promise.all([killed.sender.agent.ended, killed.receiver.agent.ended]),
        signal,
      );
      const since = countOn(a);
      const { sender } = await moveDomain({ ...leg, signal });
      const warnings = sender.lines.flatMap((line) => line.type === "warning" ? [line.code] : []);
      assertEquals(warnings.includes("resolved"), true, warnings.join(", "));
      await assertGoesOn(b, { since, signal });
      await assertInOrder(a, { domains: [], signal });
      await assertInOrder(b, { domains: ["g1"], signal });
    });

    await t.step("new limits while it works", async () => {
      const signal = AbortSignal.timeout(CASE_MS);
      const since = countOn(b);
      const slow = ["-q", "--disk-bandwidth", "64K", "--ram-bandwidth", "64K"];
      const { sender, receiver } = await startMove({ ...leg, from: b, to: a, send: slow, signal });
      await sender.agent.waitFor("disk_progress");
      const id = await findMigration(b, signal);
      const set = (...words: string[]) => operate(b, ["set", id, ...words], signal);
      assertEquals((await operate(a, ["set", id, "--bandwidth", "none"], signal)).code, REFUSED);
      const mirrored = performance.now();
      assertEquals((await set("--disk-bandwidth", "none")).code, 0);
      await sender.agent.waitFor("ram_progress");
      assertGreater(100, seconds(mirrored)); // 8 MiB at 64 KiB/s are 128 s

      const { code, stderr } = await set("--downtime-limit", "50ms");
      assertEquals(code, REFUSED, stderr);
      assertMatch(stderr, /The pause of a Xen domain cannot be limited/);

      const sent = performance.now();
      assertEquals((await set("--bandwidth", "none")).code, 0);
      await sender.agent.expectEnd(0);
      await receiver.agent.expectEnd(0);
      assertGreater(150, seconds(sent)); // 12 MiB at 64 KiB/s are 192 s
      await assertGoesOn(a, { since, signal });
    });
  },
});

/** A command of the program under test that has no JSON. */
async function operate(host: XenHost, words: readonly string[], signal: AbortSignal) {
  return await host.run(`${programInDom0()} ${words.join(" ")}`, { signal });
}

function seconds(since: number): number {
  return Math.round((performance.now() - since) / 1000);
}

/** The migration that an agent on that host works on. */
async function findMigration(host: XenHost, signal: AbortSignal): Promise<string> {
  const found = (await readStatus(host, signal)).find(({ agent_pid: pid }) => pid !== null);
  if (!found) throw new Error(`No agent works on host ${host.name}`);
  return found.migration_id;
}
