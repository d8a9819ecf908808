// `send --reconnect` with real agents: the link between the hosts is cut, frames vanish without a reset,
// and comes back; the migration goes on where it was, the guest has hardly noticed, both hosts' disks are
// equal at the switch, and nothing was copied twice. And where it cannot go on: the guest stays.

import { assert, assertEquals, assertLess, assertStringIncludes } from "@std/assert";
import { delay } from "../../src/base/deadline.ts";
import { type Agent, agentCommand, type LineOf } from "../lib/agents.ts";
import { capture, run } from "../lib/command.ts";
import { assertSameDisk, type ImageFormat, makeImage, makeNoise } from "../lib/disks.ts";
import { attach, failToMove, formatOf, makeBootDisk, move, startGuest } from "../lib/moving.ts";
import { TestNet } from "../lib/netns.ts";
import { requires } from "../lib/requires.ts";
import { TestSite } from "../lib/site.ts";
import { StallMeter } from "../lib/stall_meter.ts";
import { TempDir } from "../lib/temp.ts";
import { TestVm } from "../lib/vm.ts";

const MIB = 2 ** 20;
const SIZES = { boot: 8 * MIB, data: 24 * MIB };
/** Longer than the agents allow a silent peer (3 s). */
const CUT_MS = 5000;
/** What the guest may stand still for a cut while it runs; the rest of it is the pause. */
const STALL_MS = 2000;
/** A mirror has so much on its way at most; that much is copied again for each cut. */
const IN_FLIGHT_BYTES = 16 * MIB;
/** Where both agents stand still, the guest too: the mirrors have ended, and nobody runs it yet. */
const SWITCH = "destination.handover.journal_accepted.before";
/** Limits that hold a phase open until they are lifted. */
const SLOW_DISKS = ["--disk-bandwidth", "4M"];
const SLOW_RAM = ["--ram-bandwidth", "100K"];

const NEVER = new AbortController().signal;
const needs = requires("root", "ip", "qemu-system-x86_64", "qemu-img");
const newer = Deno.env.get("QEMU_NEWER");

class Scene implements AsyncDisposable {
  readonly net: TestNet;
  readonly site: TestSite;
  readonly source: TestVm;
  readonly paths: readonly string[];
  readonly signal: AbortSignal;
  readonly #held: AsyncDisposableStack;

  private constructor(parts: {
    net: TestNet;
    site: TestSite;
    source: TestVm;
    paths: readonly string[];
    signal: AbortSignal;
    held: AsyncDisposableStack;
  }) {
    ({ net: this.net, site: this.site, source: this.source } = parts);
    ({ paths: this.paths, signal: this.signal, held: this.#held } = parts);
  }

  /** A guest at the left host with two disks in `format`, of which the second is full of noise. */
  static async create(
    options: { format?: ImageFormat; binary?: string } = {},
  ): Promise<Scene> {
    const { format = "raw", binary } = options;
    const signal = AbortSignal.timeout(90_000);
    await using held = new AsyncDisposableStack();
    const net = held.use(await TestNet.create(signal));
    const temp = held.use(await TempDir.create());
    const paths = ["boot", "data"].map((name) => temp.file(`${name}.${format}`));
    await makeBootDisk(paths[0]!, { format, sizeBytes: SIZES.boot, signal });
    const content = makeNoise(SIZES.data);
    await makeImage(paths[1]!, { format, sizeBytes: SIZES.data, content, signal });
    const { netns } = net.left;
    const source = held.use(
      await startGuest(attach(...paths), { signal, netns, ...(binary ? { binary } : {}) }),
    );
    const site = held.use(await TestSite.create(net));
    return new Scene({ net, site, source, paths, signal, held: held.move() });
  }

  /** Off for so long, and back. */
  async cut(ms = CUT_MS): Promise<void> {
    await this.net.cut(this.signal);
    await delay(ms, this.signal);
    await this.net.restore(this.signal);
  }

  /** Gives the sender new limits. */
  async set(sender: Agent, ...limits: string[]): Promise<void> {
    const { migration_id: id } = await sender.waitFor("phase", (line) => line.phase === "params");
    const stateDir = this.site.stateDirs.source;
    await run([...agentCommand(), "set", id!, ...limits, "--state-dir", stateDir], this.signal);
  }

  /**
   * Waits for the moment of the switch, compares what both hosts have on their disks, and lets the
   * receiver go on, which stands still there.
   */
  async checkSwitch(receiver: Agent): Promise<void> {
    await receiver.waitFor("warning", ({ code }) => code === "fault_point");
    for (const path of this.paths) {
      const target = `${this.site.disks}/${path.split("/").at(-1)}`;
      const format = formatOf(path);
      await assertSameDisk({ path, format }, { path: target, format }, this.signal);
    }
    receiver.kill("SIGUSR1");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#held.disposeAsync();
  }
}

/** Waits until the sender has said that a part of the disks was copied. */
function isCopying(sender: Agent): Promise<LineOf<"disk_progress">> {
  return sender.waitFor("disk_progress", (line) => line.disk === "d1" && line.done_bytes > 0);
}

function isSendingRam(sender: Agent): Promise<LineOf<"ram_progress">> {
  return sender.waitFor("ram_progress", (line) => line.transferred_bytes > 0);
}

/** Waits until both have found each other that often. */
async function found(agents: readonly Agent[], times = 1): Promise<void> {
  for (const agent of agents) {
    let left = times;
    await agent.waitFor("warning", ({ code }) => code === "connection_found" && --left === 0);
  }
}

/** What a test does to a migration until the link is back for good; with the limits in `send`. */
interface Case {
  name: string;
  format?: ImageFormat;
  binary?: string;
  send: string[];
  /** Options of `receive`. */
  receive?: string[];
  /** How often the link is cut. */
  cuts?: number;
  strike: (scene: Scene, sender: Agent) => Promise<void>;
}

/** Cuts and heals the link while the disks are copied. */
async function cutInMirror(scene: Scene, sender: Agent): Promise<void> {
  await isCopying(sender);
  await scene.cut();
}

/** Cuts and heals the link while the memory is sent. */
async function cutInRam(scene: Scene, sender: Agent): Promise<void> {
  await isSendingRam(sender);
  await scene.cut();
}

const WAYS: Record<string, { send: string[]; receive?: string[] }> = {
  encrypted: { send: [] },
  tunnel: { send: ["--nbd", "tunnel"] },
  insecure: { send: ["--insecure"], receive: ["--insecure"] },
};

const CASES: Case[] = [
  ...Object.entries(WAYS).map(([way, { send, ...options }], index): Case => ({
    name: `${way}, while the disks are copied`,
    format: index % 2 === 0 ? "raw" : "qcow2",
    send: [...SLOW_DISKS, ...send],
    ...options,
    strike: cutInMirror,
  })),
  ...Object.entries(WAYS).map(([way, { send, ...options }], index): Case => ({
    name: `${way}, while the memory is sent`,
    format: index % 2 === 0 ? "qcow2" : "raw",
    send: [...SLOW_RAM, ...send],
    ...options,
    strike: cutInRam,
  })),
  ...["source.mirror.reach_nbd.before", "source.mirror.start_mirrors.before"].map((
    point,
    index,
  ): Case => ({
    name: `as the mirrors are started, at ${point}`,
    send: [...SLOW_DISKS, ...index === 0 ? [] : WAYS.tunnel!.send, "--fail-at", `${point}:hold`],
    async strike(scene, sender) {
      await sender.waitFor("warning", ({ code }) => code === "fault_point");
      await scene.net.cut(scene.signal);
      sender.kill("SIGUSR1");
      await sender.waitFor("warning", ({ code }) => code === "connection_lost");
      await scene.net.restore(scene.signal);
    },
  })),
  {
    name: "twice, with the disks and with the memory",
    format: "qcow2",
    send: [...SLOW_DISKS, ...SLOW_RAM],
    cuts: 2,
    async strike(scene, sender) {
      await cutInMirror(scene, sender);
      await scene.set(sender, "--disk-bandwidth", "none");
      await cutInRam(scene, sender);
    },
  },
  {
    name: "twice while the memory is sent",
    send: [...SLOW_RAM],
    cuts: 2,
    async strike(scene, sender) {
      await cutInRam(scene, sender);
      await found([sender]);
      const { time } = sender.lines.at(-1)!;
      await sender.waitFor("ram_progress", (line) => line.time > time);
      await scene.cut();
    },
  },
  {
    name: "as soon as the disks are ready",
    send: [...SLOW_RAM],
    async strike(scene, sender) {
      await sender.waitFor("step", ({ step }) => step === 4);
      await scene.cut();
    },
  },
  {
    name: "noticed late by the sender",
    send: [...SLOW_DISKS, "--peer-timeout", "20s"],
    receive: ["--peer-timeout", "1s"],
    async strike(scene, sender) {
      await isCopying(sender);
      await scene.cut(3000);
    },
  },
  {
    name: "noticed late by the receiver",
    format: "qcow2",
    send: [...SLOW_RAM, "--peer-timeout", "1s"],
    receive: ["--peer-timeout", "20s"],
    async strike(scene, sender) {
      await isSendingRam(sender);
      await scene.cut(3000);
    },
  },
  ...["mirror", "ram"].map((phase): Case => ({
    name: `a newer QEMU, in phase ${phase}`,
    format: "qcow2",
    binary: newer ?? "a newer QEMU in QEMU_NEWER",
    send: phase === "mirror" ? SLOW_DISKS : SLOW_RAM,
    receive: ["--qemu", newer!, "--allow-dir", new URL(".", `file://${newer}`).pathname],
    strike: phase === "mirror" ? cutInMirror : cutInRam,
  })),
];

for (const { name, format, binary, send, receive = [], cuts = 1, strike } of CASES) {
  Deno.test({
    name: `reconnect: ${name}`,
    ...(binary ? requires("root", "ip", "qemu-img", binary) : needs),
    async fn() {
      await using scene = await Scene.create({
        ...(format ? { format } : {}),
        ...(binary ? { binary } : {}),
      });
      const { source, signal } = scene;
      await using meter = await StallMeter.start(source, { signal });
      let stallMs = 0;
      await using moved = await move(scene.site, {
        source,
        receive: [...receive, "--fail-at", `${SWITCH}:hold`],
        send: ["-q", "--reconnect", "60s", "--source-after", "paused", ...send],
        signal,
        async disturb(sender, receiver) {
          try {
            await strike(scene, sender);
            await found([sender, receiver], cuts);
            stallMs = meter.longestMs - meter.blindMs;
            const limits = ["--disk-bandwidth", "none", "--ram-bandwidth", "none"];
            await scene.set(sender, ...limits);
            await scene.checkSwitch(receiver);
          } catch (error) {
            throw new Error(`${sender.describe()}\n${receiver.describe()}`, { cause: error });
          }
        },
      });
      console.log(`${name}: the guest's longest stand-still ${stallMs} ms`);
      assertLess(stallMs, STALL_MS);
      const { disks } = moved.sender.account!;
      const [, data] = disks;
      assert(data!.copied_bytes >= SIZES.data, "less was copied than there is");
      assertLess(data!.copied_bytes, SIZES.data + cuts * IN_FLIGHT_BYTES);
      assertEquals(moved.receiver.account!.running, true);
    },
  });
}

/** Where it cannot go on: nothing stays, and the guest runs on at the source. */
const HOPELESS: {
  name: string;
  send: string[];
  codes: { sender: number; receiver: number };
  error: string;
  strike: (scene: Scene, agents: { sender: Agent; receiver: Agent }) => Promise<void>;
  leavesRemains?: boolean;
}[] = [
  ...Object.entries({ mirror: SLOW_DISKS, ram: SLOW_RAM }).map(([phase, send]) => ({
    name: `not back in time, in phase ${phase}`,
    send: ["--reconnect", "3s", ...send],
    codes: { sender: 7, receiver: 7 },
    error: "not_found_again",
    async strike(scene: Scene, { sender }: { sender: Agent }) {
      await (phase === "mirror" ? isCopying(sender) : isSendingRam(sender));
      await scene.net.cut(scene.signal);
      await sender.ended;
      await scene.net.restore(scene.signal);
    },
  })),
  {
    name: "the receiver is killed meanwhile",
    send: ["--reconnect", "8s", ...SLOW_RAM],
    codes: { sender: 7, receiver: 137 },
    error: "not_found_again",
    leavesRemains: true,
    async strike(scene, { sender, receiver }) {
      await isSendingRam(sender);
      await scene.net.cut(scene.signal);
      for (const agent of [sender, receiver]) {
        await agent.waitFor("warning", ({ code }) => code === "connection_lost");
      }
      receiver.kill("SIGKILL");
      await scene.net.restore(scene.signal);
    },
  },
];

for (const { name, send, strike, ...expected } of HOPELESS) {
  Deno.test({
    name: `reconnect: ${name}`,
    ...needs,
    async fn() {
      await using scene = await Scene.create();
      const { source, signal } = scene;
      await using meter = await StallMeter.start(source, { signal });
      await failToMove(scene.site, {
        source,
        send: ["-q", ...send],
        signal,
        disturb: (sender, receiver) => strike(scene, { sender, receiver }),
        ...expected,
      });
      assertLess(meter.longestMs - meter.blindMs, STALL_MS);
    },
  });
}

Deno.test({
  name: "reconnect: an adopted QEMU cannot take the memory twice",
  ...needs,
  async fn() {
    await using scene = await Scene.create();
    const { net, site, source, signal } = scene;
    const targets = scene.paths.map((path) => site.file(path.split("/").at(-1)!));
    for (const [index, path] of targets.entries()) {
      const sizeBytes = Object.values(SIZES)[index]!;
      await makeImage(path, { format: "raw", sizeBytes, signal });
    }
    const waiting = ["-S", "-incoming", "defer", "-m", "64", ...attach(...targets)];
    await using adopted = await TestVm.start(waiting, { signal, netns: net.right.netns });
    await using meter = await StallMeter.start(source, { signal });
    const end = await failToMove(site, {
      source,
      receive: ["--adopt-qmp", adopted.qmpPath],
      send: ["-q", "--reconnect", "60s", ...SLOW_RAM],
      codes: { sender: 4, receiver: 4 },
      error: "cannot_restart",
      leavesRemains: true, // the QEMU is not this program's
      signal,
      disturb: (sender) => cutInRam(scene, sender),
    });
    assertStringIncludes(end.error!.message, "cannot take it a second time");
    assertLess(meter.longestMs - meter.blindMs, STALL_MS);
  },
});

Deno.test({
  name: "reconnect: refused over ssh, whose connection is somebody else's to make",
  ...needs,
  async fn() {
    const command = ["send", "--qmp", "/none", "--via", "ssh:host", "--reconnect", "60s"];
    const { code, stderr } = await capture([...agentCommand(), ...command], NEVER);
    assertEquals(code, 2);
    assertStringIncludes(stderr, "--via");
  },
});
