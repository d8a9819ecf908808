// Two Xen hosts and what `xl migrate` does between them by itself: it moves a guest's memory and device
// state, while its disk stays where it was. What the program under test is held against.

import { assertEquals, assertGreater, assertNotEquals } from "@std/assert";
import { GUEST_LAP_TURNS, measurePause, startGuest, waitForCountAbove } from "./lib/xen_guest.ts";
import { requiresXen } from "./lib/xen_host.ts";
import { XenPair } from "./lib/xen_pair.ts";

const LIMIT_MS = 240_000;

Deno.test({
  name: "Xen pair: xl migrates a guest by itself; the link can be cut",
  ...requiresXen(),
  async fn(t) {
    const signal = AbortSignal.timeout(LIMIT_MS);
    await using pair = await XenPair.boot({ signal });
    const { a, b } = pair;
    const address = XenPair.addresses.b;

    await t.step("xl migrate over SSH", async () => {
      const disks = [{ path: "/var/g1.img", format: "raw", vdev: "hda" }] as const;
      // It leaves its disk alone, which does not come along, and reports every turn.
      const guest = { diskMask: 0, reportEvery: 1 };
      const since = await startGuest(a, { name: "g1", disks, guest, signal });
      await b.check(`qemu-img create -q -f raw ${disks[0].path} 8M`, { signal });
      const startedMs = performance.now();
      await a.check(`xl migrate g1 ${address}`, { signal });
      const totalMs = performance.now() - startedMs;
      const { pauseMs, before, after } = await measurePause({ from: a, to: b, signal });
      console.log(
        `xl migrate over SSH: ${Math.round(totalMs)} ms, paused for ${Math.round(pauseMs)} ms`,
      );
      assertGreater(after.n, before.n);
      const later = await waitForCountAbove(b, { count: after.n + GUEST_LAP_TURNS, signal });
      assertEquals([since.bad, later.bad, later.ioErrors], [0, 0, 0]);
    });

    await t.step("a cut link drops everything until it is restored", async () => {
      const ping = `ping -c 1 -w 2 ${address}`;
      assertEquals((await a.run(ping, { signal })).code, 0);
      await pair.cut(signal);
      assertNotEquals((await a.run(ping, { signal })).code, 0);
      assertEquals(await a.check("cat /sys/class/net/peer0/carrier", { signal }), "1\n");
      await pair.restore(signal);
      assertEquals((await a.run(ping, { signal })).code, 0);
    });
  },
});
