// One case of the fault matrix: two hosts, a guest that counts and writes, a migration that stands still
// at one named point while a fault strikes; then what an operator would do, and what must hold.

import { abortable, delay } from "../../src/base/deadline.ts";
import type { Side } from "../../src/base/errors.ts";
import { QmpClient } from "../../src/qmp/client.ts";
import { Agent, type AgentEnd } from "../lib/agents.ts";
import { attach, makeBootDisk, startGuest } from "../lib/moving.ts";
import { TestNet } from "../lib/netns.ts";
import { StallMeter } from "../lib/stall_meter.ts";
import type { TestVm } from "../lib/vm.ts";
import { Host } from "./host.ts";
import { checkGuest, findGuests, type Guests } from "./guests.ts";

export const FAULTS = [
  "kill sender",
  "kill receiver",
  "kill source QEMU",
  "kill destination QEMU",
  "cut",
  "cut for 5 s",
  "stop peer",
  "disk full",
] as const;
export type Fault = (typeof FAULTS)[number];

export interface CaseResult {
  point: string;
  fault: Fault;
  /** Null: the run did not come to that point. */
  reached: boolean;
  sender: number;
  receiver: number;
  /** What the operator had to do: commands of `resolve`. */
  resolved: number;
  /** Where the guest is in the end. */
  guest: "source" | "destination" | "none";
  /** The source guest's longest stand-still; null when it has moved or is gone. */
  stallMs: number | null;
  problems: string[];
}

const CASE_MS = 180_000;
const CUT_MS = 5000;
/** Long enough for a cut of five seconds and what comes after it. */
const RECONNECT = "20s";
const HANDOVER_TIMEOUT = "12s";

/** Runs one case from nothing; leaves nothing, whatever it finds. */
export async function runCase(point: string, fault: Fault): Promise<CaseResult> {
  const signal = AbortSignal.timeout(CASE_MS);
  await using net = await TestNet.create(signal);
  await using source = await Host.create({ netns: net.left, fullDisk: false }, signal);
  await using destination = await Host.create({
    netns: net.right,
    fullDisk: fault === "disk full",
  }, signal);
  const disks = [source.file("a.raw"), source.file("b.qcow2")];
  await makeBootDisk(disks[0]!, { signal, sizeBytes: 48 * 2 ** 20 });
  await makeBootDisk(disks[1]!, { signal, format: "qcow2" });
  await using vm = await startGuest(["-name", "guest", ...attach(...disks)], {
    signal,
    netns: net.left.netns,
  });
  const run = new Case({ point, fault, net, source, destination, vm, disks, signal });
  return await run.go();
}

interface Parts {
  point: string;
  fault: Fault;
  net: TestNet;
  source: Host;
  destination: Host;
  vm: TestVm;
  disks: string[];
  signal: AbortSignal;
}

class Case {
  readonly #parts: Parts;
  readonly #problems: string[] = [];

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  async go(): Promise<CaseResult> {
    const { point, fault, net, destination, source, vm, signal } = this.#parts;
    const holder: Side = point.startsWith("source.") ? "source" : "destination";
    const failAt = (side: Side) => side === holder ? ["--fail-at", `${point}:hold`] : [];
    const ticket = destination.file("ticket");
    await using meter = await StallMeter.start(vm, { signal });
    const receiver = destination.start([
      ...["receive", "--listen", `${net.right.address}:0`, "--ticket-file", ticket],
      ...["--disk-dir", destination.disks, "--run-dir", destination.run, ...failAt("destination")],
    ], signal);
    await receiver.waitFor("listening");
    const reconnect = fault === "cut for 5 s" ? ["--reconnect", RECONNECT] : [];
    const sender = source.start([
      ...["send", "-q", "--ticket-file", ticket, "--qmp", vm.qmpPath, ...reconnect],
      ...["--handover-timeout", HANDOVER_TIMEOUT, ...failAt("source")],
    ], signal);
    const ends = Promise.all([sender.ended, receiver.ended]);
    const held = holder === "source" ? sender : receiver;
    const reached = await Promise.race([
      held.waitFor("warning", ({ code }) => code === "fault_point").then(() => true, () => false),
      ends.then(() => false, () => false),
    ]);
    if (reached) await this.#strike(fault, { sender, receiver, holder });
    // A receiver that nobody came to waits on.
    const [sent] = await Promise.all([
      abortable(sender.ended, signal),
      this.#endReceiver(receiver, sender),
    ]);
    const received = await receiver.ended;
    await net.restore(signal);
    const { longestMs } = meter;
    const resolved = await this.#resolve(sent, received);
    const guest = await this.#check();
    return {
      point,
      fault,
      reached,
      sender: sent.code,
      receiver: received.code,
      resolved,
      guest,
      stallMs: guest === "source" ? longestMs : null,
      problems: this.#problems,
    };
  }

  /** What the fault does while one agent stands still at its point; then that one goes on. */
  async #strike(
    fault: Fault,
    { sender, receiver, holder }: { sender: Agent; receiver: Agent; holder: Side },
  ): Promise<void> {
    const { net, vm, destination, signal } = this.#parts;
    const held = holder === "source" ? sender : receiver;
    const other = holder === "source" ? receiver : sender;
    switch (fault) {
      case "kill sender":
        sender.kill("SIGKILL");
        break;
      case "kill receiver":
        receiver.kill("SIGKILL");
        break;
      case "kill source QEMU":
        vm.kill("SIGKILL");
        await vm.ended;
        break;
      case "kill destination QEMU":
        await destination.killQemu();
        break;
      case "cut":
        await net.cut(signal);
        break;
      case "cut for 5 s":
        await net.cut(signal);
        delay(CUT_MS, signal).then(() => net.restore(signal)).catch(() => {});
        break;
      case "stop peer":
        other.kill("SIGSTOP");
        delay(CUT_MS, signal).then(() => other.kill("SIGCONT")).catch(() => {});
        break;
      case "disk full":
        await destination.fillDisk(signal);
        break;
    }
    try {
      held.kill("SIGUSR1");
    } catch (error) {
      if (!(error instanceof TypeError)) throw error; // it has ended already
    }
  }

  async #endReceiver(receiver: Agent, sender: Agent): Promise<void> {
    await sender.ended;
    const asked = receiver.lines.some(({ type }) => type === "started");
    if (!asked) {
      try {
        receiver.kill("SIGTERM");
      } catch (error) {
        if (!(error instanceof TypeError)) throw error;
      }
    }
    await abortable(receiver.ended, this.#parts.signal);
  }

  /** What the documentation tells an operator to do, on the destination first; how many commands. */
  async #resolve(sent: AgentEnd, received: AgentEnd): Promise<number> {
    const { source, destination, signal } = this.#parts;
    let commands = 0;
    for (const record of await destination.journals(signal)) {
      if (received.code === 0 && record.state === "running") continue;
      commands++;
      const { code, text } = await destination.resolve(record.migration_id, [], signal);
      if (code !== 0) this.#problems.push(`resolve on the destination: ${code} ${text}`);
    }
    const [tombstone] = await destination.journals(signal);
    for (const record of await source.journals(signal)) {
      commands++;
      let result = await source.resolve(record.migration_id, [], signal);
      if (result.code === 6) {
        // Nobody answers any more: the operator says what the destination's status says.
        const keep = tombstone?.state === "running" ? "destination" : "source";
        commands++;
        result = await source.resolve(record.migration_id, ["--keep", keep], signal);
      }
      if (result.code !== 0) {
        this.#problems.push(`resolve on the source: ${result.code} ${result.text}`);
      }
    }
    if (sent.code === 1 || received.code === 1) this.#problems.push("exit code 1: a defect");
    return commands;
  }

  /** What must hold after every fault; where the guest is. */
  async #check(): Promise<CaseResult["guest"]> {
    const { source, destination, vm, fault, disks, signal } = this.#parts;
    const guests: Guests = await findGuests(vm, destination, signal);
    const { running } = guests;
    if (running.length > 1) this.#problems.push("two guests run");
    // The fault itself may have ended the only one that could run.
    const mayBeGone = fault === "kill source QEMU" || fault === "kill destination QEMU";
    if (running.length === 0 && !mayBeGone) {
      this.#problems.push(`no guest runs (source: ${guests.sourceState})`);
    }
    this.#problems.push(...await source.leftovers(signal));
    const guest = running[0] ?? "none";
    this.#problems.push(
      ...await destination.leftovers(signal, { hasGuest: guest === "destination" }),
    );
    if (guest === "source") this.#problems.push(...await sourceLeftovers(vm.monitor, signal));
    if (guest !== "none") {
      this.#problems.push(...await checkGuest(guests, signal));
      this.#problems.push(...await this.#moveOnceMore(guests, disks));
    }
    return guest;
  }

  /** The same guest, wherever it is, can be moved afresh. */
  async #moveOnceMore(guests: Guests, disks: string[]): Promise<string[]> {
    const { net, source, destination, vm, signal } = this.#parts;
    const back = guests.running[0] === "destination";
    const [from, to] = back ? [destination, source] : [source, destination];
    const address = back ? net.left.address : net.right.address;
    await to.clearDisks(disks);
    await destination.freeDisk(signal);
    const ticket = to.file("second-ticket");
    const receiver = to.start([
      ...["receive", "--listen", `${address}:0`, "--ticket-file", ticket],
      ...["--disk-dir", to.disks, "--run-dir", to.run],
    ], signal);
    await receiver.waitFor("listening");
    await guests.release();
    const qmp = back ? guests.destinationQmp! : vm.qmpPath;
    const sender = from.start(["send", "-q", "--ticket-file", ticket, "--qmp", qmp], signal);
    const [sent] = await Promise.all([sender.ended, receiver.ended]);
    if (sent.code !== 0) return [`a fresh migration fails: ${sender.describe()}`];
    await using arrived = await QmpClient.connect(sent.account!.qmp!, { signal });
    return await checkGuest({ running: ["destination"], monitor: arrived }, signal);
  }
}

/** What a migration must not leave in the QEMU of a guest that stays. */
async function sourceLeftovers(qmp: QmpClient, signal: AbortSignal): Promise<string[]> {
  const jobs = await qmp.execute("query-jobs", {}, { signal });
  const nodes = await qmp.execute("query-named-block-nodes", { flat: true }, { signal });
  const objects = await qmp.execute("qom-list", { path: "/objects" }, { signal });
  return [
    ...jobs.map(({ id }) => `job ${id} left`),
    ...nodes.flatMap((node) =>
      node["node-name"]?.startsWith("migrate-agent") ? [`node ${node["node-name"]} left`] : []
    ),
    ...objects.flatMap(({ name }) =>
      name.startsWith("migrate-agent") ? [`object ${name} left`] : []
    ),
  ];
}
