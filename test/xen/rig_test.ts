// The Xen hosts that the other tests stand on: they boot, run the program under test, and run a guest
// that notices what is wrong with its disk.

import { assertEquals, assertGreater, assertMatch } from "@std/assert";
import { destroyGuest, GUEST_LAP_TURNS, startGuest, waitForCountAbove } from "./lib/xen_guest.ts";
import { requiresXen, XenHost } from "./lib/xen_host.ts";

const LIMIT_MS = 180_000;

Deno.test({
  name: "Xen host: runs the program under test, and a guest that checks itself",
  ...requiresXen(),
  async fn(t) {
    const signal = AbortSignal.timeout(LIMIT_MS);
    await using host = await XenHost.boot({ name: "a", signal });
    const disk = { path: "/var/g1.img", format: "raw", vdev: "hda", backend: "qdisk" } as const;

    await t.step("the program under test runs in dom0", async () => {
      const version = await host.check("/mnt/migrate-agent --version", { signal });
      assertMatch(version, /^migrate-agent [0-9]/);
    });

    await t.step("output and exit code come through", async () => {
      const output = await host.run('echo "it\'s out"; echo error >&2; exit 3', { signal });
      assertEquals(output, { code: 3, stdout: "it's out\n", stderr: "error\n" });
    });

    await t.step("a guest finds its memory and disk whole", async () => {
      const first = await startGuest(host, { name: "g1", disks: [disk], signal });
      const later = await waitForCountAbove(host, { count: first.n + GUEST_LAP_TURNS, signal });
      assertEquals([later.domid, later.bad, later.ioErrors], [first.domid, 0, 0]);
    });

    await t.step("a guest notices a sector that is not its own", async () => {
      await host.check("xl pause g1", { signal });
      const first = "dd if=/dev/zero bs=512 seek=64 count=1 conv=notrunc status=none";
      await host.check(`${first} of=${disk.path}`, { signal });
      const from = host.console.lines.length;
      await host.check("xl unpause g1", { signal });
      const { n } = await waitForCountAbove(host, { count: GUEST_LAP_TURNS, from, signal });
      const { bad } = await waitForCountAbove(host, { count: n + GUEST_LAP_TURNS, from, signal });
      assertGreater(bad, 0);
    });

    await t.step("a guest that is destroyed leaves nothing in dom0", async () => {
      await destroyGuest(host, { name: "g1", signal });
      const domains = JSON.parse(await host.check("xl list -l", { signal })) as { domid: number }[];
      assertEquals(domains.map(({ domid }) => domid), [0]);
      assertEquals(await host.check("ls /var/run/xen | grep qmp || true", { signal }), "");
    });
  },
});
