// What must hold in every state that can be reached, whatever happened before.

import { isSettled, mayRun } from "../../src/migration/ownership.ts";
import type { World } from "./world.ts";

/** Why the world is not as it must be; null when it is. */
export function findViolation(world: World, copiedDisks: boolean): string | null {
  const { source, destination } = world;
  const runsHere = source.qemu === "runs";
  const runsThere = destination.qemu === "runs";
  if (runsHere && runsThere) return "two guests run";
  if (mayRun("source", source.journal) && mayRun("destination", destination.journal)) {
    return "two guests may run";
  }
  // A QEMU whose migration did not end may let its guest run on by itself: it was not handed over then.
  const unsent = source.journal === "handover_sent" && !source.sent;
  if (runsHere && !mayRun("source", source.journal) && !unsent) {
    return `the guest runs at the source, which is '${source.journal}'`;
  }
  if (runsThere && !mayRun("destination", destination.journal)) {
    return `the guest runs at the destination, which is '${destination.journal}'`;
  }
  if (world.lostGuest) return "an agent has ended a QEMU that had the guest";
  if (destination.journal === "never_ran" && destination.ran !== "no") {
    return "the guest ran at the destination, which says that it never did";
  }
  const { journal } = destination;
  if ((journal === "never_ran" || journal === "ended") && destination.qemu !== "gone") {
    return `the destination is '${journal}' and its QEMU is there`;
  }
  if (runsHere && destination.ran !== "no" && !copiedDisks) {
    return "the source goes on from its pause with shared disks that the guest has used since";
  }
  if (runsHere && destination.ran === "long" && !destination.givenUp) {
    return "what the guest did at the destination is thrown away, and nobody has said so";
  }
  if (source.journal === "handed_over" && (journal === "never_ran" || journal === "ended")) {
    return "both hosts have given the guest away";
  }
  if (source.journal === "handover_sent" && destination.forgotten) {
    return "the source needs an answer that the destination has forgotten";
  }
  return null;
}

/** Why the step between two states must not be; null when it may. */
export function findBadStep(before: World, after: World): string | null {
  for (const side of ["source", "destination"] as const) {
    const { durable } = before[side];
    if (settledOn(before, side) && after[side].durable !== durable) {
      return `the ${side} was settled ('${durable}') and is '${after[side].durable}'`;
    }
  }
  return null;
}

function settledOn(world: World, side: "source" | "destination"): boolean {
  return side === "source"
    ? isSettled("source", world.source.durable)
    : isSettled("destination", world.destination.durable);
}

/** Why the world is not in order, when all has been done that can be; null when it is. */
export function findDisorder({ source, destination }: World): string | null {
  const pair = `source '${source.journal}', destination '${destination.journal}'`;
  const atSource = source.journal === "kept" &&
    (destination.forgotten || destination.journal === "never_ran" ||
      destination.journal === "ended");
  const atDestination = source.journal === "handed_over" && destination.journal === "running";
  if (!atSource && !atDestination) return `not settled: ${pair}`;
  if (atSource && (source.qemu === "stopped" || destination.qemu !== "gone")) {
    return `${pair}, but QEMU there: ${source.qemu}, ${destination.qemu}`;
  }
  const refuses = destination.qemu === "paused" && destination.sick;
  if (atDestination && (source.qemu !== "gone" || destination.qemu === "paused" && !refuses)) {
    return `${pair}, but QEMU there: ${source.qemu}, ${destination.qemu}`;
  }
  return null;
}
