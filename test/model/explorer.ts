// Visits every world that can be reached, breadth first, so that the first thing found wrong has the
// shortest story.

import { destinationMoves } from "./destination_side.ts";
import { faultMoves } from "./faults.ts";
import { findBadStep, findViolation } from "./invariants.ts";
import { operatorMoves } from "./operator.ts";
import { Recovery } from "./recovery.ts";
import { sourceMoves } from "./source_side.ts";
import { type Move, type Setting, START, type World } from "./world.ts";

export interface Exploration {
  states: number;
  transitions: number;
  /** Moves to the state that is farthest from the start. */
  depth: number;
  /** Different situations, without agents, from which the way out was followed. */
  recoveries: number;
  /** What was found wrong first, and how it comes to that. */
  finding: { problem: string; trace: string[]; world: World } | null;
}

/** All that may happen next. */
export function movesOf(world: World, setting: Setting): Move[] {
  return [
    ...sourceMoves(world, setting),
    ...destinationMoves(world, setting),
    ...faultMoves(world),
    ...operatorMoves(world, setting),
  ];
}

/**
 * Everything that can happen in that setting; ends at the first thing that must not.
 * @param options.wayOut whether the way out is followed from everywhere
 */
export function explore(setting: Setting, { wayOut }: { wayOut: boolean }): Exploration {
  const seen = new Map<string, number>();
  const worlds: World[] = [];
  const parents: number[] = [];
  const labels: string[] = [];
  const depths: number[] = [];
  const recovery = new Recovery(setting);
  let transitions = 0;

  const add = (world: World, parent: number, label: string): boolean => {
    const key = keyOf(world);
    if (seen.has(key)) return false;
    seen.set(key, worlds.length);
    worlds.push(world);
    parents.push(parent);
    labels.push(label);
    depths.push(parent < 0 ? 0 : depths[parent]! + 1);
    return true;
  };
  const result = (finding: Exploration["finding"]): Exploration => ({
    states: worlds.length,
    transitions,
    depth: depths.at(-1)!,
    recoveries: recovery.count,
    finding,
  });
  const traceTo = (at: number): string[] => at <= 0 ? [] : [...traceTo(parents[at]!), labels[at]!];

  add(START, -1, "");
  for (let at = 0; at < worlds.length; at += 1) {
    const world = worlds[at]!;
    const problem = findViolation(world, setting.copiedDisks) ??
      (wayOut ? recovery.findFailure(world) : null);
    if (problem !== null) return result({ problem, trace: traceTo(at), world });
    for (const { label, next } of movesOf(world, setting)) {
      transitions += 1;
      const bad = findBadStep(world, next);
      if (bad !== null) {
        return result({ problem: bad, trace: [...traceTo(at), label], world: next });
      }
      add(next, at, label);
    }
  }
  return result(null);
}

/** All of a world in one string; quicker than JSON, which is most of the time otherwise. */
function keyOf(world: World): string {
  let key = String(world.lostGuest);
  for (const part of [world.source, world.destination, world.wire, world.ask]) {
    for (const value of Object.values(part)) key += `|${value}`;
  }
  return key;
}
