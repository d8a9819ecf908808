// The link between the hosts is cut, frames vanish without a reset, and comes back: mirrors go on where
// they were, in the phase of the disks and in that of the memory, whose destination QEMU must be replaced.
// Both images are whole then, and the guest has never waited. With the installed QEMU and a newer one.

import { assert, assertEquals, assertLess, assertRejects } from "@std/assert";
import { delay } from "../../src/base/deadline.ts";
import { AgentError } from "../../src/base/errors.ts";
import { IncomingMigration, OutgoingMigration } from "../../src/guest/ram.ts";
import { run } from "../lib/command.ts";
import { MirrorScene } from "../lib/mirroring.ts";
import { assertGoesOn } from "../lib/moving.ts";
import { TestNet } from "../lib/netns.ts";
import { requires } from "../lib/requires.ts";
import { StallMeter } from "../lib/stall_meter.ts";
import type { TestVm } from "../lib/vm.ts";

const MIB = 2 ** 20;
const DATA_BYTES = 48 * MIB;
/** What a guest may stand still; a busy machine does some of it too. */
const STALL_MS = 2000;
/** A mirror keeps so much on its way at most; that much is copied again. */
const IN_FLIGHT_BYTES = 16 * MIB;
/** The time in which agents find out: nothing is to depend on it. */
const UNNOTICED_MS = 2500;

const newer = Deno.env.get("QEMU_NEWER");

for (const binary of ["qemu-system-x86_64", newer]) {
  const version = binary === newer ? "a newer QEMU" : "the installed QEMU";
  const needs = requires("root", "ip", "qemu-img", binary ?? "a newer QEMU in QEMU_NEWER");
  const define = (name: string, fn: (scene: MirrorScene, signal: AbortSignal) => Promise<void>) =>
    Deno.test({
      name: `${version}: ${name}`,
      ...needs,
      async fn() {
        const signal = AbortSignal.timeout(90_000);
        await using net = await TestNet.create(signal);
        const options = { binary: binary!, dataBytes: DATA_BYTES, signal };
        await using scene = await MirrorScene.create(net, options);
        await fn(scene, signal);
      },
    });

  define("mirrors go on after the link was cut while they copied", async (scene, signal) => {
    const destination = await scene.startDestination();
    const { exports, port, names, serveAgain } = await scene.serve(destination, null);
    const mirrors = await scene.makeMirrors(port, { names, speedBytesPerS: 8e6 });
    await mirrors.start(signal);
    const watching = watch(mirrors, signal);
    await delay(1500, signal); // a part is copied
    await using meter = await StallMeter.start(scene.source, { signal });
    await scene.net.cut(signal);
    await delay(UNNOTICED_MS, signal);
    await mirrors.suspend();
    const copied = (await mirrors.progress(signal)).map(({ doneBytes }) => doneBytes);
    assert(copied[1]! > 0 && copied[1]! < DATA_BYTES, "the disk was to be copied in part");
    await exports.stop(signal);
    await delay(1000, signal);
    assertLess(meter.longestMs, STALL_MS);

    await scene.net.restore(signal);
    await serveAgain();
    await mirrors.resume(signal);
    await mirrors.waitReady({ report: () => {}, signal });
    const [, data] = await mirrors.progress(signal);
    assertLess(data!.doneBytes, DATA_BYTES + IN_FLIGHT_BYTES);
    await watching.stop();
    assertLess(meter.longestMs, STALL_MS);

    await scene.source.monitor.execute("stop", {}, { signal });
    await mirrors.finish(signal);
    await exports.stop(signal);
    await scene.assertSameDisks();
    await scene.source.monitor.execute("cont", {}, { signal });
    await scene.assertNoMirrors();
  });

  const defineOnce = binary === newer ? () => {} : define;
  // With QEMU 10.0 a mirror is sometimes lost once more right after `resume` (seen 1 time in a few runs),
  // and has to be suspended and resumed again: as the agents do in migration_reconnect_test.ts.
  defineOnce("the memory is sent again to a new QEMU, the mirrors stay", async (scene, signal) => {
    const first = await scene.startDestination();
    const { exports, port, names } = await scene.serve(first, null);
    const mirrors = await scene.makeMirrors(port, { names });
    await mirrors.start(signal);
    await mirrors.waitReady({ report: () => {}, signal });
    const watching = watch(mirrors, signal);
    const copied = (await mirrors.progress(signal))[1]!.doneBytes;
    await using meter = await StallMeter.start(scene.source, { signal });
    {
      const ram = await sendRam(scene, first, { name: "first", bytesPerS: 100_000, signal });
      using _ = ram.outgoing;
      await ram.progressed;
      await scene.net.cut(signal);
      await delay(UNNOTICED_MS, signal);
      await mirrors.suspend();
      // The other host: what the mirrors were told is written must be on the disks, before this QEMU
      // ends itself when its memory's stream does.
      await exports.stop(signal);
      await ram.outgoing.cancel();
      await ram.outgoing.restore();
      await assertRejects(() => ram.stopped, AgentError);
      await first.ended; // by itself (7.2 and 10.0)
    }
    await delay(1000, signal); // the guest writes to its disks meanwhile
    assertEquals(await scene.source.runState(signal), "running");
    assertLess(meter.longestMs, STALL_MS);

    const second = await scene.startDestination();
    const again = await scene.serve(second, port);
    assertEquals([again.port, again.names], [port, names]);
    await scene.net.restore(signal);
    await mirrors.resume(signal);
    using incoming = new IncomingMigration(second.monitor);
    const ram = await sendRam(scene, second, { name: "second", incoming, signal });
    using _ = ram.outgoing;
    await ram.stopped;
    assertLess(meter.longestMs, STALL_MS);
    await watching.stop();
    assertLess((await mirrors.progress(signal))[1]!.doneBytes, copied + IN_FLIGHT_BYTES);
    await mirrors.finish(signal);
    const { count: since } = await scene.source.readGuest(signal);
    await Promise.all([
      ram.outgoing.finish(signal),
      again.exports.stop(signal),
      incoming.waitLoaded(signal),
    ]);
    await scene.assertSameDisks();
    await second.monitor.execute("cont", {}, { signal });
    await assertGoesOn(second.monitor, { since, signal });
  });

  define("a server that ends under the mirrors: told, and they go on", async (scene, signal) => {
    const destination = await scene.startDestination();
    const { exports, port, names, serveAgain } = await scene.serve(destination, null);
    const mirrors = await scene.makeMirrors(port, { names, speedBytesPerS: 8e6 });
    await mirrors.start(signal);
    const waiting = mirrors.waitReady({ report: () => {}, signal });
    await exports.stop(signal);
    const error = await assertRejects(() => waiting, AgentError);
    assertEquals([error.code, error.kind], ["mirror_lost", "link"]);
    await mirrors.suspend();
    await serveAgain();
    await mirrors.resume(signal);
    await mirrors.waitReady({ report: () => {}, signal });
    await scene.source.monitor.execute("stop", {}, { signal });
    await mirrors.finish(signal);
    await exports.stop(signal);
    await scene.assertSameDisks();
  });

  define(
    "the link is lost for good: nothing stays and the guest runs on",
    async (scene, signal) => {
      const destination = await scene.startDestination();
      const { port, names } = await scene.serve(destination, null);
      const mirrors = await scene.makeMirrors(port, { names });
      await mirrors.start(signal);
      await mirrors.waitReady({ report: () => {}, signal });
      await using meter = await StallMeter.start(scene.source, { signal });
      const ram = await sendRam(scene, destination, { name: "ram", bytesPerS: 100_000, signal });
      using _ = ram.outgoing;
      await ram.progressed;
      await scene.net.cut(signal);
      await delay(UNNOTICED_MS, signal);
      await mirrors.suspend();
      await delay(500, signal);
      await mirrors.cutOff();
      await ram.outgoing.cancel();
      await ram.outgoing.restore();
      await mirrors.abandon();
      await assertRejects(() => ram.stopped, AgentError);
      assertLess(meter.longestMs, STALL_MS);
      await scene.assertNoMirrors();
      await assertGoesOn(scene.source.monitor, { since: 0, signal });
    },
  );

  define("a server behind a firewall that drops: given up soon", async (scene, signal) => {
    const { left, right } = scene.net;
    const links = await run(["ip", "-j", "-n", right.netns, "link", "show", "eth0"], signal);
    const [{ address: lladdr }] = JSON.parse(links);
    // The neighbour is known: nothing tells QEMU's kernel that the host is not there.
    const neighbour = ["neigh", "replace", right.address, "lladdr", lladdr, "dev", "eth0"];
    await run(["ip", "-n", left.netns, ...neighbour], signal);
    await scene.net.cut(signal);
    await using meter = await StallMeter.start(scene.source, { signal });
    const names = scene.disks.map((_, index) => `disk-${index}`);
    const mirrors = await scene.makeMirrors(9, { names }); // port 9, as no other is better
    const error = await assertRejects(() => mirrors.start(signal), AgentError);
    assertEquals(error.code, "nbd_unreachable");
    await mirrors.abandon();
    assertLess(meter.longestMs, STALL_MS);

    meter.reset();
    const cancel = new AbortController();
    setTimeout(() => cancel.abort(new Error("enough")), 300);
    const began = performance.now();
    await assertRejects(() => mirrors.start(cancel.signal), Error, "enough");
    assertLess(performance.now() - began, 1000);
    await mirrors.abandon();
    assertLess(meter.longestMs, 1000);
    await scene.assertNoMirrors();
  });
}

/** Sees that no mirror is lost that nobody has suspended. */
function watch(mirrors: { watch(stop: AbortSignal): Promise<void> }, signal: AbortSignal) {
  const stop = new AbortController();
  const watching = mirrors.watch(AbortSignal.any([signal, stop.signal]));
  watching.catch(() => {}); // told by `stop`
  return {
    stop() {
      stop.abort();
      return watching;
    },
  };
}

/** Begins to send the memory to `vm`, through a socket that the link's end does not break. */
async function sendRam(scene: MirrorScene, vm: TestVm, options: {
  name: string;
  bytesPerS?: number;
  incoming?: IncomingMigration;
  signal: AbortSignal;
}) {
  const { name, bytesPerS = 0, signal } = options;
  const { monitor } = scene.source;
  const path = `${scene.folder.path}/${name}.sock`;
  const incoming = options.incoming ?? new IncomingMigration(vm.monitor);
  await incoming.listen(path, { features: scene.features, signal });
  const outgoing = new OutgoingMigration(monitor, scene.features);
  const ram = { bandwidthBytesPerS: bytesPerS, downtimeLimitMs: null, autoConverge: false };
  await outgoing.remember(signal);
  await outgoing.configure(ram, signal);
  await outgoing.start(path, signal);
  const progressed = Promise.withResolvers<void>();
  const report = ({ transferredBytes }: { transferredBytes: number }) => {
    if (transferredBytes > 0) progressed.resolve();
  };
  const stopped = outgoing.waitStopped({ report, signal });
  stopped.catch(progressed.reject);
  progressed.promise.catch(() => {}); // told by `stopped` too
  if (!options.incoming) incoming[Symbol.dispose]();
  return { outgoing, stopped, progressed: progressed.promise };
}
