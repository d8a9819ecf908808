// How long a guest may stand still at the source for a fault, and how long it did.

import type { Side } from "../../src/base/errors.ts";
import type { Agent, AgentEnd } from "../lib/agents.ts";
import { type Fault, PASSING_MS } from "./faults.ts";

/** While it runs: in preflight, params, mirror, ram. */
const RUNNING_LIMIT_MS = 2000;
/** When it was stopped for the switchover. */
const SWITCHOVER_LIMIT_MS = 5000;

export interface Stall {
  longestMs: number;
  /** Null: how long it lasts is not the agents' to say. */
  limitMs: number | null;
  problem: string | null;
}

/**
 * Judges the guest's longest stand-still between the fault and the end of both agents. A stall in a
 * time in which the meter itself had no processor proves nothing.
 */
export function judgeStall(
  { longestMs, blindMs }: { longestMs: number; blindMs: number },
  about: { fault: Fault; holder: Side; sender: Agent; sent: AgentEnd; stateAtEnd: string },
): Stall {
  const limitMs = limitOf(about);
  const tooLong = limitMs !== null && longestMs - blindMs > limitMs;
  return {
    longestMs,
    limitMs,
    problem: tooLong
      ? `the guest stood still for ${longestMs} ms, limit ${limitMs} ms (blind for ${blindMs} ms)`
      : null,
  };
}

function limitOf(
  { fault, holder, sender, sent, stateAtEnd }: {
    fault: Fault;
    holder: Side;
    sender: Agent;
    sent: AgentEnd;
    stateAtEnd: string;
  },
): number | null {
  // It waits for the operator.
  if (stateAtEnd !== "running") return null;
  // The handover was sent and no answer came: the sender asks for as long as it was told to.
  if (sent.lines.some((line) => line.type === "warning" && line.code === "handover_unanswered")) {
    return null;
  }
  const stopped = sender.lines.some((line) =>
    line.type === "phase" && line.phase === "switchover" ||
    line.type === "warning" && line.code === "fault_point" &&
      line.text.includes("wait_stopped.after")
  );
  if (!stopped) return RUNNING_LIMIT_MS;
  // A sender that was stopped itself can do nothing for its guest meanwhile.
  const ownStopMs = fault === "stop peer" && holder === "destination" ? PASSING_MS : 0;
  return SWITCHOVER_LIMIT_MS + ownStopMs;
}
