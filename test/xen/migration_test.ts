// A Xen guest moves with its disk between two real Xen hosts, by the commands that an operator gives.
// The longer runs are in round_trip_test.ts, what goes wrong in faults_test.ts.

import { assertEquals } from "@std/assert";
import {
  assertGoesOn,
  assertInOrder,
  countOn,
  DISK_DIR,
  moveDomain,
  prepareHosts,
} from "./lib/xen_agents.ts";
import { measurePause, startGuest } from "./lib/xen_guest.ts";
import { requiresXen } from "./lib/xen_host.ts";
import { XenPair } from "./lib/xen_pair.ts";

const LIMIT_MS = 400_000;

Deno.test({
  name: "Xen: a running guest moves with its disk to the other host",
  ...requiresXen(),
  async fn() {
    const signal = AbortSignal.timeout(LIMIT_MS);
    await using pair = await XenPair.boot({ signal });
    const { a, b } = pair;
    await prepareHosts(pair, signal);
    const disk = { path: "/var/g1.img", format: "raw", vdev: "hda", backend: "qdisk" } as const;
    await startGuest(a, { name: "g1", disks: [disk], guest: { reportEvery: 1 }, signal });
    const { sender } = await moveDomain({ from: a, to: b, guest: "g1", signal });
    const { pauseMs } = await measurePause({ from: a, to: b, signal });
    console.log(
      `Xen: ${Math.round(sender.account!.total_ms)} ms, paused for ${Math.round(pauseMs)} ms`,
    );
    await assertGoesOn(b, { since: countOn(a), signal });
    assertEquals(await b.check(`ls ${DISK_DIR}`, { signal }), "g1.img\n");
    await assertInOrder(a, { domains: [], signal });
    await assertInOrder(b, { domains: ["g1"], signal });
  },
});
