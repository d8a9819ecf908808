// What happens in each round of the soak: a point of the sender and a fault, drawn from the seed and
// the round's number alone.

import { Random } from "../fuzz/random.ts";

export const SOAK_FAULTS = [
  "none",
  "sender fails",
  "kill sender",
  "cancel",
  "kill destination QEMU",
  "cut",
  "cut for a while",
  "stop sender",
  "stop receiver",
] as const;

export interface Round {
  fault: (typeof SOAK_FAULTS)[number];
  /** Where the sender stands still, or fails. */
  point: string;
  /** For what passes by itself. */
  lastsMs: number;
}

/** In this phase the guest's QEMU at the destination is the only one that has all of it. */
const HANDED_OVER = /^source\.(handover\.(hand_over\.after|journal)|end\.)/;

export function planRound(
  { points, seed, round }: { points: readonly string[]; seed: number; round: number },
): Round {
  const random = new Random(seed, round);
  const point = random.pick(points.filter((point) => point.startsWith("source.")));
  // Nothing could bring that guest back, and the soak has but one.
  const faults = SOAK_FAULTS.filter((fault) =>
    fault !== "kill destination QEMU" || !HANDED_OVER.test(point)
  );
  return { point, fault: random.pick(faults), lastsMs: 1000 + random.below(6000) };
}
