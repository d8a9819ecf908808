// One case of the fault matrix: two hosts, a guest that counts and writes, a migration that stands still
// at one named point while a fault strikes; then what an operator would do, and what must hold.

import { abortable } from "../../src/base/deadline.ts";
import type { Side } from "../../src/base/errors.ts";
import type { Agent, AgentEnd } from "../lib/agents.ts";
import { attach, makeBootDisk, startGuest } from "../lib/moving.ts";
import { TestNet } from "../lib/netns.ts";
import { StallMeter } from "../lib/stall_meter.ts";
import type { TestVm } from "../lib/vm.ts";
import { type Aftermath, checkAftermath, moveAgain } from "./aftermath.ts";
import { type Fault, signalIfThere, strike } from "./faults.ts";
import { countDescriptors, sourceState } from "./guests.ts";
import { Host } from "./host.ts";
import { isLeftToTheNext, putInOrder } from "./operator.ts";
import { judgeStall, type Stall } from "./stall.ts";

export interface CaseResult {
  point: string;
  fault: Fault;
  /** Whether the run came to that point. */
  reached: boolean;
  /** Exit codes of the agents; null for a case that could not be run. */
  codes: { sender: number; receiver: number } | null;
  /** The commands that the operator needed. */
  commands: number;
  /** Instead, `send` and `receive` were run again at once, and put things in order themselves. */
  again: boolean;
  /** Where the guest is in the end; `none`: the fault itself has ended it. */
  guest: "source" | "destination" | "none";
  /** The source guest's longest stand-still; null when it has moved or is gone. */
  stall: Stall | null;
  problems: string[];
}

const CASE_MS = 180_000;
/** Long enough for a cut that passes, and what comes after it. */
const RECONNECT = "20s";
const HANDOVER_TIMEOUT = "12s";

/** Runs one case from nothing; leaves nothing, whatever it finds. */
export async function runCase(point: string, fault: Fault): Promise<CaseResult> {
  const over = new AbortController();
  const signal = AbortSignal.any([AbortSignal.timeout(CASE_MS), over.signal]);
  await using net = await TestNet.create(signal);
  await using source = await Host.create({ netns: net.left, fullDisk: false }, signal);
  const fullDisk = fault === "disk full";
  await using destination = await Host.create({ netns: net.right, fullDisk }, signal);
  const disks = [source.file("a.raw"), source.file("b.qcow2")];
  await makeBootDisk(disks[0]!, { signal, sizeBytes: 48 * 2 ** 20 });
  await makeBootDisk(disks[1]!, { signal, format: "qcow2" });
  await using vm = await startGuest(["-name", "guest", ...attach(...disks)], {
    signal,
    netns: net.left.netns,
  });
  using _ = { [Symbol.dispose]: () => over.abort() };
  return await new Case({ point, fault, net, source, destination, vm, disks, signal }).go();
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

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  async go(): Promise<CaseResult> {
    const { point, fault, net, destination, source, vm, disks, signal } = this.#parts;
    const before = await countDescriptors(vm.pid);
    await using meter = await StallMeter.start(vm, { signal });
    const { sender, receiver, holder } = await this.#start();
    const reached = await this.#waitForPoint(holder === "source" ? sender : receiver, sender);
    const handedOver = isHandedOver(sender) || isHandedOver(receiver);
    meter.reset();
    if (reached) {
      await strike(fault, { sender, receiver, holder, vm, net, destination }, signal);
      signalIfThere(holder === "source" ? sender : receiver, "SIGUSR1");
    }
    const [sent, received] = await this.#endAll(sender, receiver);
    const measured = { longestMs: meter.longestMs, blindMs: meter.blindMs };
    const stateAtEnd = await sourceState(vm, signal);
    await net.restore(signal);
    // Both ways out of it that the documentation names get their share.
    const again = point.endsWith(".after") &&
      await isLeftToTheNext({ source, destination }, signal);
    const aftermath: Aftermath = {
      ...{ vm, net, source, destination, disks, descriptors: before },
      mayBeGone: reached && mayEndGuest(fault, { point, handedOver }),
      diesAt: fault === "kill destination QEMU" ? "destination" : "source",
    };
    const { commands, guest, problems } = again
      ? { commands: 0, guest: "source" as const, problems: await moveAgain(aftermath, signal) }
      : await resolveAndCheck(aftermath, signal);
    const stall = guest === "source"
      ? judgeStall(measured, { fault, holder, sender, sent, stateAtEnd })
      : null;
    const internal = [sent, received].some(({ code }) => code === 1);
    if (internal) problems.push("exit code 1: a defect");
    if (problems.length > 0) problems.push(sender.describe(), receiver.describe());
    return {
      point,
      fault,
      reached,
      codes: { sender: sent.code, receiver: received.code },
      commands,
      again,
      guest,
      stall,
      problems: [...problems, ...(stall?.problem ? [stall.problem] : [])],
    };
  }

  /** Both agents, of which the one with the point will stand still there. */
  async #start(): Promise<{ sender: Agent; receiver: Agent; holder: Side }> {
    const { point, fault, net, destination, source, vm, signal } = this.#parts;
    const holder: Side = point.startsWith("source.") ? "source" : "destination";
    const failAt = (side: Side) => side === holder ? ["--fail-at", `${point}:hold`] : [];
    const ticket = destination.file("ticket");
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
    return { sender, receiver, holder };
  }

  /** False when the migration ends without coming there. */
  async #waitForPoint(held: Agent, sender: Agent): Promise<boolean> {
    const ends = Promise.all([sender.ended, held.ended]);
    return await Promise.race([
      held.waitFor("warning", ({ code }) => code === "fault_point").then(() => true, () => false),
      ends.then(() => false, () => false),
    ]);
  }

  async #endAll(sender: Agent, receiver: Agent): Promise<[AgentEnd, AgentEnd]> {
    const { signal } = this.#parts;
    const sent = await abortable(sender.ended, signal);
    // A receiver that nobody came to waits on.
    if (!receiver.lines.some(({ type }) => type === "started")) {
      signalIfThere(receiver, "SIGTERM");
    }
    return [sent, await abortable(receiver.ended, signal)];
  }
}

async function resolveAndCheck(
  aftermath: Aftermath,
  signal: AbortSignal,
): Promise<Pick<CaseResult, "commands" | "guest" | "problems">> {
  const order = await putInOrder(aftermath, signal);
  const { guest, problems } = await checkAftermath(aftermath, signal);
  return { commands: order.commands, guest, problems: [...order.problems, ...problems] };
}

/**
 * Whether that fault may end the only guest there is: the source's before it was handed over, the
 * destination's from then on.
 */
function mayEndGuest(
  fault: Fault,
  { point, handedOver }: { point: string; handedOver: boolean },
): boolean {
  const resumed = handedOver || point === "destination.handover.resume.after";
  if (fault === "kill destination QEMU") return resumed;
  return fault === "kill source QEMU" && !resumed && !ARRIVED.test(point);
}

/** From here on all of the guest is at the destination. */
const ARRIVED = /\.(handover|end)\./;

/** The RFC's last step: the guest goes on at the destination. */
function isHandedOver(agent: Agent): boolean {
  return agent.lines.some((line) => line.type === "step" && line.step === 7);
}
