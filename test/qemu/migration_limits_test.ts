// Limits that an operator sets: bandwidth, pause, time, ports; and a guest that is busy enough to
// need them.

import { assertEquals, assertGreater, assertGreaterOrEqual } from "@std/assert";
import { makeImage, makeNoise } from "../lib/disks.ts";
import { attach, failToMove, makeBootDisk, move, startGuest } from "../lib/moving.ts";
import { requires } from "../lib/requires.ts";
import { TestSite } from "../lib/site.ts";
import { TempDir } from "../lib/temp.ts";

const MIB = 2 ** 20;
const DATA_BYTES = 40 * MIB;
const HOST = { hostname: "127.0.0.1" };

Deno.test({
  name: "migration within limits",
  ...requires("qemu-system-x86_64", "qemu-img"),
  async fn(t) {
    const signal = AbortSignal.timeout(90_000);
    await using temp = await TempDir.create();
    const paths = ["boot.raw", "data.raw"].map((name) => temp.file(name));
    await makeBootDisk(paths[0]!, { guest: { diskMask: 1 }, signal });
    const content = makeNoise(DATA_BYTES);
    await makeImage(paths[1]!, { format: "raw", sizeBytes: DATA_BYTES, content, signal });
    await using source = await startGuest(attach(...paths), { signal });
    using taken = Deno.listen({ ...HOST, port: 0 });
    const { port } = taken.addr;

    await t.step("--timeout undoes what takes longer", async () => {
      await using site = await TestSite.create();
      await failToMove(site, {
        source,
        send: ["-q", "--disk-bandwidth", "1M", "--timeout", "1500ms"],
        codes: { sender: 8, receiver: 8 },
        error: "timeout",
        signal,
      });
    });
    await t.step("--nbd-ports with no free port", async () => {
      await using site = await TestSite.create();
      await failToMove(site, {
        source,
        receive: ["--nbd-ports", `${port}-${port}`],
        codes: { sender: 4, receiver: 4 },
        error: "no_nbd_port",
        signal,
      });
    });
    await t.step("--nbd-ports takes a free one; bandwidth, pause, auto-converge", async () => {
      await using site = await TestSite.create();
      await using moved = await move(site, {
        source,
        receive: ["--nbd-ports", `${port}-${port + 20}`],
        send: [
          ...["-q", "--disk-bandwidth", "16M", "--ram-bandwidth", "4M"],
          ...["--downtime-limit", "250ms", "--auto-converge", "--source-after", "paused"],
        ],
        signal,
      });
      const { phases, ram_bytes, downtime_ms } = moved.sender.account!;
      const msOf = (name: string) => phases.find(({ phase }) => phase === name)!.ms;
      // The first 16 MiB are copied before QEMU looks at the limit.
      assertGreater(msOf("mirror"), 1000 * (DATA_BYTES - 16 * MIB) / (16 * MIB) * 0.7);
      assertGreaterOrEqual(msOf("ram"), 1000 * ram_bytes / (4 * MIB) * 0.3);
      assertGreater(downtime_ms!, 0);
      const parameters = await source.monitor.execute("query-migrate-parameters", {}, { signal });
      assertEquals(parameters["downtime-limit"], 250);
      const all = await source.monitor.execute("query-migrate-capabilities", {}, { signal });
      const isOn = (name: string) => all.find(({ capability }) => capability === name)?.state;
      assertEquals(isOn("auto-converge"), true);
      assertEquals(await source.runState(signal), "postmigrate");
    });
  },
});

Deno.test({
  name: "migration: a guest that dirties much memory and both disks converges",
  ...requires("qemu-system-x86_64", "qemu-img"),
  async fn() {
    const signal = AbortSignal.timeout(60_000);
    await using temp = await TempDir.create();
    await using site = await TestSite.create();
    const paths = ["boot.raw", "data.qcow2"].map((name) => temp.file(name));
    const guest = { windowBytes: 32 * MIB, pagesPerTurn: 1024, slots: 16, turnMs: 20 };
    await makeBootDisk(paths[0]!, { guest, signal });
    await makeImage(paths[1]!, { format: "qcow2", sizeBytes: 64 * MIB, signal });
    await using source = await startGuest(attach(...paths), { signal });
    await using moved = await move(site, { source, send: ["-q", "--auto-converge"], signal });
    assertGreater(moved.sender.account!.ram_bytes, 32 * MIB);
  },
});
