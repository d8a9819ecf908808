// A Xen guest with disks of three kinds moves to the other host and back; then one whose disk is shared.
// The images are compared at a switch, where the guest runs on neither side. And what the disks
// add to the pause of a plain `xl migrate` is printed.

import { assertEquals } from "@std/assert";
import {
  assertGoesOn,
  assertInOrder,
  countOn,
  DISK_DIR,
  moveDomain,
  prepareHosts,
  startMove,
} from "./lib/xen_agents.ts";
import { destroyGuest, measurePause, startGuest, type XenDisk } from "./lib/xen_guest.ts";
import { requiresXen, type XenHost } from "./lib/xen_host.ts";
import { XenPair } from "./lib/xen_pair.ts";

const LIMIT_MS = 1_200_000;
const BACK_DIR = "/var/back";
/** Where disks lie that do not move: they are there already, under the same name. */
const ALLOW = ["--allow-dir", "/var"];

const DISKS: readonly XenDisk[] = [
  { path: "/var/g1.img", format: "raw", vdev: "hda", backend: "qdisk" },
  { path: "/var/g1.qcow2", format: "qcow2", vdev: "hdb", backend: "qdisk" },
  { path: "/var/cd.iso", format: "raw", vdev: "hdc", backend: "qdisk", isCdrom: true },
];

Deno.test({
  name: "Xen: a guest with disks of three kinds moves, and moves back; the pause that disks add",
  ...requiresXen(),
  async fn(t) {
    const signal = AbortSignal.timeout(LIMIT_MS);
    await using pair = await XenPair.boot({ signal });
    const { a, b } = pair;
    await prepareHosts(pair, signal);
    // A medium that is only read does not move: it is there already.
    await b.check(`qemu-img create -q -f raw ${DISKS[2]!.path} 8M; mkdir ${BACK_DIR}`, { signal });
    await a.check(`mkdir ${BACK_DIR}`, { signal });
    await startGuest(a, { name: "g1", disks: DISKS, guest: { diskMask: 3 }, signal });

    await t.step("to the other host", async () => {
      const { sender } = await moveDomain({ from: a, to: b, guest: "g1", receive: ALLOW, signal });
      const disks = sender.account!.disks.map(({ name, action }) => `${name} ${action}`);
      assertEquals(disks, ["hda mirror", "hdb mirror", "hdc present"]);
      await assertGoesOn(b, { since: countOn(a), signal });
      await assertInOrder(a, { domains: [], signal });
      await assertInOrder(b, { domains: ["g1"], signal });
    });

    await t.step("and back: at the switch the images are equal", async () => {
      const since = countOn(b);
      const { sender, receiver } = await startMove({
        from: b,
        to: a,
        guest: "g1",
        // Here everything has arrived, and the guest runs on neither side.
        send: ["-q", "--fail-at", "source.handover.hand_over.before:hold"],
        receive: ["--disk-dir", BACK_DIR, ...ALLOW],
        signal,
      });
      await sender.agent.waitFor("warning", ({ code }) => code === "fault_point");
      for (const name of ["g1.img", "g1.qcow2"]) {
        const there = await hashContent(b, { path: `${DISK_DIR}/${name}`, signal });
        assertEquals(await hashContent(a, { path: `${BACK_DIR}/${name}`, signal }), there, name);
      }
      await sender.kill("USR1", signal);
      await sender.agent.expectEnd(0);
      await receiver.agent.expectEnd(0);
      await assertGoesOn(a, { since, signal });
      await destroyGuest(a, { name: "g1", signal });
    });

    await t.step("without its disks; and what they add to the pause", async () => {
      const disk = { path: "/var/g2.img", format: "raw", vdev: "hda", backend: "qdisk" } as const;
      // It leaves its disk alone, which does not come along with xl, and reports every turn.
      const guest = { diskMask: 0, reportEvery: 1 };
      await startGuest(a, { name: "g2", disks: [disk], guest, signal });
      await b.check(`qemu-img create -q -f raw ${disk.path} 8M`, { signal });

      const measure = async (
        what: string,
        { from, to, move }: { from: XenHost; to: XenHost; move: () => Promise<unknown> },
      ) => {
        const since = to.console.lines.length;
        const startedMs = performance.now();
        await move();
        const totalMs = performance.now() - startedMs;
        const { pauseMs } = await measurePause({ from, to, since, signal });
        console.log(`${what}: ${Math.round(totalMs)} ms, paused for ${Math.round(pauseMs)} ms`);
      };
      await measure("xl migrate over SSH", {
        from: a,
        to: b,
        move: () => a.check(`xl migrate g2 ${XenPair.addresses.b}`, { signal }),
      });
      await measure("the agents, shared disk", {
        from: b,
        to: a,
        move: () => moveDomain({ from: b, to: a, guest: "g2", send: [], receive: ALLOW, signal }),
      });
      await measure("the agents, mirrored disk", {
        from: a,
        to: b,
        move: () => moveDomain({ from: a, to: b, guest: "g2", signal }),
      });
      await assertGoesOn(b, { since: countOn(a), signal });
    });
  },
});

/** Of what a guest sees of the image. */
async function hashContent(
  host: XenHost,
  { path, signal }: { path: string; signal: AbortSignal },
): Promise<string> {
  const raw = "/tmp/content.raw";
  const convert = `qemu-img convert -U -O raw ${path} ${raw} && sha256sum < ${raw}; rm ${raw}`;
  return await host.check(convert, { signal });
}
