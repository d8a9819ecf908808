// What goes wrong while a Xen guest moves: an agent stands still at a named point (`--fail-at`) while
// something is cancelled, killed, cut or full. Afterwards, and after `resolve` where an agent was killed,
// the guest runs in one place and finds its disk and memory whole, xl can work with both hosts again,
// and the next try gets as far as this one.

import { assertEquals, assertNotEquals } from "@std/assert";
import { abortable } from "../../src/base/deadline.ts";
import type { Dom0Agent } from "./lib/xen_agents.ts";
import {
  assertGoesOn,
  assertInOrder,
  countOn,
  DISK_DIR,
  moveDomain,
  prepareHosts,
  runAgent,
  startMove,
} from "./lib/xen_agents.ts";
import { startGuest } from "./lib/xen_guest.ts";
import { requiresXen } from "./lib/xen_host.ts";
import { XenPair } from "./lib/xen_pair.ts";

const BOOT_MS = 240_000;
const CASE_MS = 400_000;
const CANCELLED = 5;
const UNCERTAIN = 6;
/** Room for a part of the guest's disk. */
const SMALL_DISK = "/var/small";

interface Strike {
  pair: XenPair;
  sender: Dom0Agent;
  receiver: Dom0Agent;
  signal: AbortSignal;
}

interface Case {
  name: string;
  /** Where an agent stands still, or is killed (`:kill`). */
  at: string;
  strike?: (strike: Strike) => Promise<unknown>;
  /** What the sender ends with; default: any failure. */
  code?: number;
  receive?: readonly string[];
}

/** The pattern must not be found in itself: it is in the command line that looks for it. */
const kill = (host: "a" | "b", program: string) => ({ pair, signal }: Strike) =>
  pair[host].check(`kill -9 $(pgrep -f '${program}')`, { signal });
const cancel = ({ sender, signal }: Strike) => sender.kill("INT", signal);
const cut = ({ pair, signal }: Strike) => pair.cut(signal);

const BEFORE_SUSPENSION = "source.ram.wait_stopped.before";
const SUSPENDED = "source.switchover.finish_mirrors.before";
const ASKED = "source.handover.hand_over.before";

const CASES: readonly Case[] = [
  { name: "cancelled before suspension", at: BEFORE_SUSPENSION, strike: cancel, code: CANCELLED },
  { name: "cancelled while suspended", at: SUSPENDED, strike: cancel, code: CANCELLED },
  { name: "refused when xl has asked", at: "destination.switchover.wait_handover.before:error" },
  { name: "the sender is killed before suspension", at: `${BEFORE_SUSPENSION}:kill` },
  { name: "the sender is killed while suspended", at: `${SUSPENDED}:kill` },
  { name: "the sender is killed when xl has asked", at: `${ASKED}:kill` },
  { name: "the receiver is killed in the memory", at: "destination.ram.wait_arrived.before:kill" },
  {
    name: "the receiver is killed when it is loaded",
    at: "destination.switchover.load.after:kill",
  },
  {
    name: "xl migrate is killed before",
    at: BEFORE_SUSPENSION,
    strike: kill("a", "[/]xl migrate -s"),
  },
  {
    name: "xl migrate is killed while suspended",
    at: SUSPENDED,
    strike: kill("a", "[/]xl migrate -s"),
  },
  {
    name: "xl migrate-receive is killed",
    at: BEFORE_SUSPENSION,
    strike: kill("b", "[/]xl migrate-receive"),
  },
  {
    name: "qemu-nbd is killed",
    at: "source.mirror.wait_ready.after",
    strike: kill("b", "^[q]emu-nbd "),
  },
  { name: "the link is cut in the mirror", at: "source.mirror.wait_ready.before", strike: cut },
  { name: "the link is cut in the memory", at: BEFORE_SUSPENSION, strike: cut },
  { name: "the link is cut while suspended", at: SUSPENDED, strike: cut },
  {
    name: "the destination's disk is full",
    at: "source.mirror.start_mirrors.before",
    receive: ["--disk-dir", SMALL_DISK],
    strike: ({ pair, signal }) =>
      pair.b.run(`dd if=/dev/zero of=${SMALL_DISK}/rest bs=64k`, { signal }),
  },
];

Deno.test({
  name: "Xen: after each fault the guest runs in one place, and can move",
  ...requiresXen(),
  async fn(t) {
    const boot = AbortSignal.timeout(BOOT_MS);
    await using pair = await XenPair.boot({ signal: boot });
    const { a, b } = pair;
    await prepareHosts(pair, boot);
    await b.check(`mkdir ${SMALL_DISK}; mount -t tmpfs -o size=9m small ${SMALL_DISK}`, {
      signal: boot,
    });
    const disk = { path: "/var/g1.img", format: "raw", vdev: "hda", backend: "qdisk" } as const;
    await startGuest(a, { name: "g1", disks: [disk], signal: boot });

    for (const fault of CASES) {
      await t.step(fault.name, async () => {
        const signal = AbortSignal.timeout(CASE_MS);
        await runCase(pair, { fault, signal });
        await putInOrder(pair, signal);
        await b.check(`rm -rf ${DISK_DIR}/* ${SMALL_DISK}/*`, { signal });
        await assertInOrder(b, { domains: [], signal });
        await assertInOrder(a, { domains: ["g1"], signal });
        await assertGoesOn(a, { since: countOn(a), signal });
      });
    }

    await t.step("and it moves", async () => {
      const signal = AbortSignal.timeout(CASE_MS);
      await moveDomain({ from: a, to: b, guest: "g1", signal });
      await assertGoesOn(b, { since: countOn(a), signal });
    });
  },
});

/** One migration that a fault ends. The link is whole again afterwards. */
async function runCase(
  pair: XenPair,
  { fault, signal }: { fault: Case; signal: AbortSignal },
): Promise<void> {
  const at = fault.at.includes(":") ? fault.at : `${fault.at}:hold`;
  const holder = at.startsWith("source") ? "sender" : "receiver";
  const failAt = ["--fail-at", at];
  const { sender, receiver } = await startMove({
    from: pair.a,
    to: pair.b,
    guest: "g1",
    send: ["-q", ...(holder === "sender" ? failAt : [])],
    receive: [...fault.receive ?? [], ...(holder === "receiver" ? failAt : [])],
    signal,
  });
  if (fault.strike) {
    const held = { sender, receiver }[holder].agent;
    await held.waitFor("warning", ({ code }) => code === "fault_point");
    await fault.strike({ pair, sender, receiver, signal });
    // It may have seen the fault while it stood still, and have ended.
    await { sender, receiver }[holder].kill("USR1", signal).catch(() => {});
  }
  const ends = Promise.all([sender.agent.ended, receiver.agent.ended]);
  const [sent, received] = await abortable(ends, signal);
  if (fault.strike === cut) await pair.restore(signal);
  assertNotEquals(sent.code, 0, `${sender.agent.describe()}\n${receiver.agent.describe()}`);
  if (fault.code !== undefined) assertEquals([sent.code, received.code], [fault.code, fault.code]);
  assertNotEquals(sent.code, UNCERTAIN);
}

/** What an operator does: the command that `status` names, on the destination first. */
async function putInOrder({ a, b }: XenPair, signal: AbortSignal): Promise<void> {
  for (const host of [b, a]) {
    const { lines } = await runAgent(host, ["status"], signal);
    const [status] = lines as { migrations: { next: string | null }[] }[];
    for (const { next } of status!.migrations) {
      if (next === null) continue;
      const { code } = await runAgent(host, next.split(" ").slice(1), signal);
      if (code === 0) continue;
      const again = await runAgent(host, [...next.split(" ").slice(1), "--keep", "source"], signal);
      assertEquals(again.code, 0, JSON.stringify(again.lines));
    }
  }
}
