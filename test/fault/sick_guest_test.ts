// Guests that do not wait until they have been moved: each shuts down, panics, reboots, is stopped or
// resumed, or meets an I/O error in the middle of a migration. docs/faults.md has the outcomes.

import { assertEquals, assertGreater, assertLess } from "@std/assert";
import type { Agent } from "../lib/agents.ts";
import { run } from "../lib/command.ts";
import { assertNoRemains, attach, makeBootDisk, move, startGuest } from "../lib/moving.ts";
import { requires } from "../lib/requires.ts";
import { TestSite } from "../lib/site.ts";
import { TempDir } from "../lib/temp.ts";
import { TestVm, waitForCountAbove } from "../lib/vm.ts";
import { makeRestlessDisk, RESTLESS_ARGS, tell } from "./restless_guest.ts";
import { assertEnds, type Expected, goOn, holdAt, moveDisturbed, waitHeld } from "./sick_moves.ts";

const MIB = 2 ** 20;
/** Every guest here is moved with its disk, and something happens while this stands still. */
const IN_MIRROR = ["-q", ...holdAt("source.mirror.wait_ready.after")];
const IN_RAM = ["-q", ...holdAt("source.ram.start_ram.before")];
/** All of it has been sent. Before that QEMU itself refuses `cont`. */
const IN_SWITCHOVER = ["-q", ...holdAt("source.switchover.finish_ram.after")];

interface Deed {
  deed: "shutdown" | "panic" | "reboot";
  /** More options of its QEMU. */
  args?: string[];
  expected: Expected;
  /** QEMU's state at the source afterwards; null: that QEMU has ended by itself. */
  state: string | null;
}

const GONE = { owner: "source", running: false } as const;
const DEEDS: Deed[] = [
  {
    deed: "shutdown",
    expected: { codes: [4, 4], error: "guest_shut_down", says: /guest-shutdown/, guest: GONE },
    state: null,
  },
  {
    deed: "shutdown",
    args: ["-no-shutdown"],
    expected: { codes: [4, 4], error: "guest_shut_down", says: /guest-shutdown/, guest: GONE },
    state: "shutdown",
  },
  {
    deed: "panic",
    args: ["-action", "panic=pause"],
    expected: { codes: [4, 4], error: "guest_panicked", guest: GONE },
    state: "guest-panicked",
  },
  {
    deed: "reboot",
    args: ["-no-reboot"],
    expected: { codes: [4, 4], error: "guest_shut_down", says: /rebooted/, guest: GONE },
    state: null,
  },
  {
    deed: "panic",
    args: ["-action", "panic=none"],
    expected: {
      codes: [0, 0],
      error: null,
      warnings: ["guest_panicked"],
      guest: { owner: "destination", running: true },
    },
    state: null,
  },
  {
    deed: "reboot",
    expected: {
      codes: [0, 0],
      error: null,
      warnings: ["guest_reset"],
      guest: { owner: "destination", running: true },
    },
    state: null,
  },
];

for (const [phase, send] of Object.entries({ mirror: IN_MIRROR, RAM: IN_RAM })) {
  Deno.test({
    name: `restless guests in the ${phase} phase`,
    ...requires("qemu-system-x86_64", "qemu-img"),
    async fn(t) {
      const signal = AbortSignal.timeout(120_000);
      for (const { deed, args = [], expected, state } of DEEDS) {
        await t.step([deed, ...args].join(" "), async () => {
          await using temp = await TempDir.create();
          await using site = await TestSite.create();
          const path = temp.file("restless.raw");
          await makeRestlessDisk(path, { format: "raw", sizeBytes: 4 * MIB, signal });
          const machine = ["-m", "64", ...attach(path), ...RESTLESS_ARGS, ...args];
          await using source = await TestVm.start(machine, { signal });
          await source.waitForCountAbove(0, signal);
          const ends = await moveDisturbed(site, {
            source,
            send,
            async disturb(sender) {
              await waitHeld(sender);
              await tell(source, deed, signal);
              if (expected.error === null) {
                await sender.waitFor("warning", ({ code }) => code === expected.warnings![0]);
                goOn(sender);
              }
            },
            signal,
          });
          assertEnds(ends, expected);
          if (state === null) await source.ended;
          else {
            assertEquals(await source.runState(signal), state);
            await assertNoRemains(source.monitor, signal);
          }
          if (expected.error !== null) return await site.assertEmpty();
          await using guest = await site.openGuest(ends.sent.account!, signal);
          await assertNoRemains(guest.qmp, signal);
          await waitForCountAbove(guest.qmp, { count: 0, signal }); // it has booted, once more or not
        });
      }
    },
  });
}

Deno.test({
  name: "guests that others meddle with",
  ...requires("qemu-system-x86_64", "qemu-img"),
  async fn(t) {
    const signal = AbortSignal.timeout(120_000);
    await using temp = await TempDir.create();
    const path = temp.file("boot.raw");
    await makeBootDisk(path, { signal });
    await using source = await startGuest(attach(path), { signal });
    const { monitor } = source;

    await t.step("resumed while it is stopped for the switchover: it stays", async () => {
      await using site = await TestSite.create();
      const ends = await moveDisturbed(site, {
        source,
        send: IN_SWITCHOVER,
        async disturb(sender) {
          await waitHeld(sender);
          await monitor.execute("cont", {}, { signal });
        },
        signal,
      });
      assertEnds(ends, {
        codes: [4, 4],
        error: "guest_resumed",
        guest: { owner: "source", running: true },
      });
      assertEquals(await source.runState(signal), "running");
      await assertNoRemains(monitor, signal);
      await site.assertEmpty();
    });
    await t.step("stopped, then given up: it stays stopped", async () => {
      await using site = await TestSite.create();
      const ends = await moveDisturbed(site, {
        source,
        send: IN_RAM,
        async disturb(sender) {
          await stopMeanwhile(sender);
          sender.kill("SIGTERM");
        },
        signal,
      });
      assertEnds(ends, {
        codes: [5, 5],
        error: "cancelled",
        warnings: ["guest_stopped"],
        guest: { owner: "source", running: false },
      });
      assertEquals(await source.runState(signal), "paused");
      await assertNoRemains(monitor, signal);
      await monitor.execute("cont", {}, { signal });
      await site.assertEmpty();
    });
    await t.step("stopped: it arrives stopped", async () => {
      await using site = await TestSite.create();
      const { sent, received, since, said } = await moveDisturbed(site, {
        source,
        send: IN_RAM,
        async disturb(sender) {
          await stopMeanwhile(sender);
          goOn(sender);
        },
        signal,
      });
      assertEnds({ sent, received, since, said }, {
        codes: [0, 0],
        error: null,
        warnings: ["guest_stopped"],
        guest: { owner: "destination", running: false },
      });
      await using guest = await site.openGuest(sent.account!, signal);
      const { status } = await guest.qmp.execute("query-status", {}, { signal });
      assertEquals(status, "paused");
      await guest.qmp.execute("cont", {}, { signal });
      await waitForCountAbove(guest.qmp, { count: since, signal });
    });

    async function stopMeanwhile(sender: Agent): Promise<void> {
      await waitHeld(sender);
      await monitor.execute("stop", {}, { signal });
      await sender.waitFor("warning", ({ code }) => code === "guest_stopped");
    }
  },
});

Deno.test({
  name: "a guest whose disk has no room at the source arrives stopped, and goes on",
  ...requires("qemu-system-x86_64", "qemu-img", "root"),
  async fn() {
    const signal = AbortSignal.timeout(60_000);
    await using temp = await TempDir.create();
    await using site = await TestSite.create();
    const folder = temp.file("small");
    await Deno.mkdir(folder);
    await run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], signal);
    try {
      const path = `${folder}/boot.raw`;
      // A thin disk, larger than its file system: the guest's stamps all over it need more and more.
      await makeBootDisk(path, { sizeBytes: 64 * MIB, guest: { slots: 8192, turnMs: 5 }, signal });
      await using source = await startGuest(attach(path), { signal });
      const ends = await moveDisturbed(site, {
        source,
        send: IN_RAM,
        async disturb(sender) {
          await waitHeld(sender);
          await sender.waitFor("warning", ({ code }) => code === "guest_stopped");
          goOn(sender);
        },
        signal,
      });
      assertEnds(ends, {
        codes: [0, 0],
        error: null,
        warnings: ["guest_io_error", "guest_stopped"],
        guest: { owner: "destination", running: false },
      });
      await using guest = await site.openGuest(ends.sent.account!, signal);
      const { count } = await waitForCountAbove(guest.qmp, { count: 0, signal });
      await guest.qmp.execute("cont", {}, { signal });
      // The write that had no room is done again, and succeeds.
      const after = await waitForCountAbove(guest.qmp, { count: count + 100, signal });
      assertEquals([after.badDisk, after.badRam, after.ioErrors], [0, 0, 0]);
    } finally {
      await run(["umount", folder], signal);
    }
  },
});

Deno.test({
  name: "a guest that changes its memory faster than it can be sent",
  ...requires("qemu-system-x86_64", "qemu-img"),
  async fn(t) {
    const signal = AbortSignal.timeout(120_000);
    await using temp = await TempDir.create();
    const path = temp.file("boot.raw");
    // 4 MiB a turn, over and over: far above the limit.
    const guest = { windowBytes: 4 * MIB, pagesPerTurn: 1024, turnMs: 20 };
    await makeBootDisk(path, { guest, signal });
    await using source = await startGuest(attach(path), { signal });
    const limits = ["-q", "--ram-bandwidth", "16M", "--downtime-limit", "100ms"];

    await t.step("is given up after --timeout, and is never stopped", async () => {
      await using site = await TestSite.create();
      using stops = source.monitor.subscribe("STOP");
      const ends = await moveDisturbed(site, {
        source,
        send: [...limits, "--timeout", "5s"],
        disturb: () => Promise.resolve(),
        signal,
      });
      assertEnds(ends, {
        codes: [8, 8],
        error: "timeout",
        guest: { owner: "source", running: true },
      });
      assertEquals(stops.lastSeenMs, undefined);
      assertGreater(Math.max(...ends.sent.lines.map((l) => "iteration" in l ? l.iteration : 0)), 1);
      await site.assertEmpty();
    });
    await t.step("converges with --auto-converge", async () => {
      await using site = await TestSite.create();
      // QEMU's own steps, of 10 % every two seconds, take half a minute for this guest.
      const steps = { "cpu-throttle-initial": 80, "cpu-throttle-increment": 19 };
      await source.monitor.execute("migrate-set-parameters", steps, { signal });
      await using moved = await move(site, {
        source,
        send: [...limits, "--auto-converge", "--timeout", "60s"],
        signal,
      });
      assertLess(moved.sender.account!.downtime_ms!, 5000);
    });
  },
});
