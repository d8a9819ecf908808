// One migration that a fault ends, between two Xen hosts: an agent stands still at a named point
// (`--fail-at`) while something is cancelled, killed, cut or full. And what an operator does afterwards.

import { assertEquals, assertNotEquals } from "@std/assert";
import { abortable } from "../../../src/base/deadline.ts";
import { type Dom0Agent, runAgent, startMove } from "./xen_agents.ts";
import type { XenHost } from "./xen_host.ts";
import type { XenPair } from "./xen_pair.ts";

/** The sender does not know who has the guest. */
export const UNCERTAIN = 6;

export interface Strike {
  pair: XenPair;
  sender: Dom0Agent;
  receiver: Dom0Agent;
  signal: AbortSignal;
}

export interface Fault {
  name: string;
  /** Where an agent stands still, or is killed (`:kill`). */
  at: string;
  strike?: (strike: Strike) => Promise<unknown>;
  /** What the sender ends with; default: any failure. */
  code?: number;
  /** The code of the error of the one that stood still; default: any. */
  error?: string;
  /** More options of both. */
  send?: readonly string[];
  receive?: readonly string[];
}

/** The pattern must not be found in itself: it is in the command line that looks for it. */
export const signalProgram =
  (host: "a" | "b", program: string, signo: "KILL" | "STOP" = "KILL") =>
  ({ pair, signal }: Strike) =>
    pair[host].check(`kill -${signo} $(pgrep -f '${program}')`, { signal });

/** Its sockets are closed afterwards: a process that has much memory takes a while to end. */
export const killDeviceModel = (host: "a" | "b", domain: string) => ({ pair, signal }: Strike) =>
  pair[host].check(
    `id=$(xl domid ${domain})
      kill -9 $(xenstore-read /local/domain/$id/image/device-model-pid)
      while grep -q "/qmp-libxenstat-$id$" /proc/net/unix; do sleep 0.1; done`,
    { signal },
  );

export const cancel = ({ sender, signal }: Strike) => sender.kill("INT", signal);
export const cut = ({ pair, signal }: Strike) => pair.cut(signal);

/** Moves g1 from A to B, which `fault` prevents. The link is whole again afterwards. */
export async function runFault(
  pair: XenPair,
  { fault, signal }: { fault: Fault; signal: AbortSignal },
): Promise<void> {
  const at = fault.at.includes(":") ? fault.at : `${fault.at}:hold`;
  const holder = at.startsWith("source") ? "sender" : "receiver";
  const failAt = ["--fail-at", at];
  const { sender, receiver } = await startMove({
    from: pair.a,
    to: pair.b,
    guest: "g1",
    send: ["-q", ...fault.send ?? [], ...(holder === "sender" ? failAt : [])],
    receive: [...fault.receive ?? [], ...(holder === "receiver" ? failAt : [])],
    signal,
  });
  if (fault.strike) {
    const held = { sender, receiver }[holder];
    const stands = held.agent.waitFor("warning", ({ code }) => code === "fault_point");
    const other = held === sender ? receiver : sender;
    const ended = other.agent.ended.then(() => {
      throw new Error(`It has not come to ${at}: ${other.agent.describe()}`);
    });
    await Promise.race([stands, ended]);
    ended.catch(() => {}); // from now on it is no failure
    await fault.strike({ pair, sender, receiver, signal });
    // It may have seen the fault while it stood still, and have ended.
    await held.kill("USR1", signal).catch(() => {});
  }
  const ends = Promise.all([sender.agent.ended, receiver.agent.ended]);
  const [sent, received] = await abortable(ends, signal);
  if (fault.strike === cut) await pair.restore(signal);
  const said = `${sender.agent.describe()}\n${receiver.agent.describe()}`;
  assertNotEquals(sent.code, 0, said);
  assertNotEquals(sent.code, UNCERTAIN, said);
  if (fault.code !== undefined) assertEquals([sent.code, received.code], [fault.code, fault.code]);
  if (fault.error === undefined) return;
  assertEquals({ sender: sent, receiver: received }[holder].error?.code, fault.error, said);
}

/** What an operator does: the command that `status` names, on the destination first. */
export async function putInOrder({ a, b }: XenPair, signal: AbortSignal): Promise<void> {
  for (const host of [b, a]) {
    for (const { next } of await readStatus(host, signal)) {
      if (next === null) continue;
      const { code } = await runAgent(host, next.split(" ").slice(1), signal);
      if (code === 0) continue;
      const again = await runAgent(host, [...next.split(" ").slice(1), "--keep", "source"], signal);
      assertEquals(again.code, 0, JSON.stringify(again.lines));
    }
  }
}

/** A migration as `status` tells it. */
export interface Told {
  migration_id: string;
  state: string;
  run_state: string | null;
  agent_pid: number | null;
  next: string | null;
}

export async function readStatus(host: XenHost, signal: AbortSignal): Promise<Told[]> {
  const { lines } = await runAgent(host, ["status"], signal);
  const [status] = lines as { migrations: Told[] }[];
  return status!.migrations;
}
