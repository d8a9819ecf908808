// Senders and receivers in the dom0s of a pair, as an operator runs them: the compiled program, each
// host with its own secret file, journals and disks. And what must hold on a host afterwards.

import { assertEquals } from "@std/assert";
import { abortable } from "../../../src/base/deadline.ts";
import { Agent, agentCommand, type AgentEnd } from "../../lib/agents.ts";
import {
  GUEST_LAP_TURNS,
  type GuestStatus,
  readGuestStatus,
  waitForCountAbove,
} from "./xen_guest.ts";
import type { XenHost } from "./xen_host.ts";
import { XenPair } from "./xen_pair.ts";

const SECRET_FILE = "/root/secret";
/** An emulated host on a busy machine is silent for longer than the default allows. */
const PATIENCE = ["--peer-timeout", "20s"];
/** Where disks of guests that arrive go. */
export const DISK_DIR = "/var/arrived";

/** An agent in a dom0: signals reach it there. */
export interface Dom0Agent {
  agent: Agent;
  kill(signo: "INT" | "KILL" | "USR1", signal: AbortSignal): Promise<void>;
}

export interface Leg {
  from: XenHost;
  to: XenHost;
  /** The domain's name. */
  guest: string;
  /** Default: -q. */
  send?: readonly string[];
  receive?: readonly string[];
  signal: AbortSignal;
}

/** What both hosts need before their first migration. */
export async function prepareHosts({ a, b }: XenPair, signal: AbortSignal): Promise<void> {
  const secret = crypto.getRandomValues(new Uint8Array(32));
  for (const host of [a, b]) {
    await host.check(`mkdir -p ${DISK_DIR}; umask 077; : > ${SECRET_FILE}`, { signal });
    await host.writeFile(SECRET_FILE, secret, { signal });
  }
}

/** Starts both agents of one migration. */
export async function startMove(
  { from, to, guest, send = ["-q"], receive = [], signal }: Leg,
): Promise<{ sender: Dom0Agent; receiver: Dom0Agent }> {
  const address = to.name === "a" ? XenPair.addresses.a : XenPair.addresses.b;
  const proof = ["--secret-file", SECRET_FILE, ...PATIENCE];
  const places = receive.includes("--disk-dir") ? [] : ["--disk-dir", DISK_DIR];
  const receiver = await startAgent(
    to,
    ["receive", "--listen", `${address}:0`, ...places, ...proof, ...receive],
    signal,
  );
  const { host, port } = await receiver.agent.waitFor("listening");
  const reach = ["--to", `${host}:${port}`, ...proof];
  const sender = await startAgent(from, ["send", "--xen", guest, ...reach, ...send], signal);
  return { sender, receiver };
}

/** One migration that must succeed; the accounts of both sides. */
export async function moveDomain(leg: Leg): Promise<{ sender: AgentEnd; receiver: AgentEnd }> {
  const { sender, receiver } = await startMove(leg);
  const sent = await abortable(sender.agent.ended, leg.signal);
  if (sent.code !== 0) throw new Error(`${sender.agent.describe()}\n${receiver.agent.describe()}`);
  const received = await receiver.agent.expectEnd(0);
  assertEquals([sent.account?.owner, received.account?.owner], ["destination", "destination"]);
  return { sender: sent, receiver: received };
}

/** Starts the program under test in dom0. */
async function startAgent(
  host: XenHost,
  args: readonly string[],
  signal: AbortSignal,
): Promise<Dom0Agent> {
  const program = programInDom0();
  const pidFile = (await host.check("mktemp", { signal })).trim();
  const script = 'echo $$ > "$0"; exec "$@"';
  const agent = Agent.start(args, {
    tmpDir: "/tmp",
    inside: (words) => host.inside(["bash", "-c", script, pidFile, program, ...words]),
    signal,
  });
  return {
    agent,
    async kill(signo, signal) {
      await host.check(`kill -${signo} $(cat ${pidFile})`, { signal });
    },
  };
}

/** Where the program under test is in dom0. */
export function programInDom0(): string {
  return `/mnt/${agentCommand()[0]!.split("/").at(-1)}`;
}

/** `migrate-agent WORDS --json` in dom0: its exit code and JSON lines. */
export async function runAgent(
  host: XenHost,
  words: readonly string[],
  signal: AbortSignal,
): Promise<{ code: number; lines: Record<string, unknown>[] }> {
  const { code, stdout } = await host.run([programInDom0(), ...words, "--json"].join(" "), {
    signal,
  });
  return { code, lines: stdout.trim().split("\n").filter(Boolean).map((line) => JSON.parse(line)) };
}

/**
 * Nothing of a migration is on the host any more, and xl can work on the domain that is: its own name,
 * no helpers, no jobs or nodes in its device model, whose socket is free.
 * @param options.domains the names of the guests that are here
 */
export async function assertInOrder(
  host: XenHost,
  { domains, signal }: { domains: readonly string[]; signal: AbortSignal },
): Promise<void> {
  const look = (commands: string) => host.check(commands, { signal });
  const list = (text: string) => text.split("\n").filter(Boolean);
  assertEquals(list(await look("xl list | awk 'NR > 2 { print $1 }'")), domains, "domains");
  // The one that a domain was received by stays with it, as its monitor.
  const receiver = domains.length === 0 ? "|xl migrate-receive" : "";
  const programs = `qemu-nbd|libxl-save-helper|xl migrate |migrate-agent${receiver}`;
  const busy = `ps -o args | grep -E '${programs}' | grep -v grep || true`;
  assertEquals(list(await look(busy)), [], "processes left behind");
  assertEquals(list(await look("ls -d /tmp/migrate-agent-* 2>/dev/null || true")), []);
  for (const name of domains) {
    const monitor = (words: string) => look(`xl qemu-monitor-command ${name} '${words}'`);
    assertEquals((await monitor("info block-jobs")).trim(), "No active jobs");
    assertEquals(/migrate-agent/.test(await monitor("info block -n")), false, "nodes left behind");
    assertEquals((await monitor("info status")).trim(), "VM status: running");
  }
}

/** The guest there counts on from `since` and finds all that it wrote, having looked at all of it. */
export async function assertGoesOn(
  host: XenHost,
  { since, signal }: { since: number; signal: AbortSignal },
): Promise<GuestStatus> {
  const from = host.console.lines.length;
  const first = await waitForCountAbove(host, { count: since, from, signal });
  const later = await waitForCountAbove(host, { count: first.n + GUEST_LAP_TURNS, from, signal });
  assertEquals([later.bad, later.ioErrors], [0, 0], "the guest found something wrong");
  return later;
}

/** The count that the guest has reached on that host. */
export function countOn(host: XenHost): number {
  return readGuestStatus(host)?.n ?? 0;
}
