// What an operator does who follows docs/safety.md, on a host whose agent is dead: `resolve`, and with
// `--keep` only what `resolve` on the other host has said. A receiver that is started again answers too.

import type { Side } from "../../src/base/errors.ts";
import { isSettled } from "../../src/migration/ownership.ts";
import { changed, type Move, type Setting, type World } from "./world.ts";

const ANY: readonly Side[] = ["source", "destination"];

export function operatorMoves(world: World, setting: Setting): Move[] {
  const moves: Move[] = [];
  if (world.source.agent === "dead") {
    const resolve = (label: string, event: string) =>
      moves.push({
        label: `source: ${label}`,
        kind: "operator",
        side: "source",
        next: changed(world, ({ source }) => {
          source.agent = "acting";
          source.todo = [...takeOver(setting), `event ${event}`];
        }),
      });
    resolve("`resolve`", "resolve");
    for (const keep of decisionsAtSource(world, setting)) {
      resolve(`\`resolve --keep ${keep}\``, `keep_${keep}`);
    }
  }
  if (world.destination.agent === "dead" && !world.destination.forgotten) {
    const start = (label: string, event: string | null, change: (next: World) => void = () => {}) =>
      moves.push({
        label: `destination: ${label}`,
        kind: "operator",
        side: "destination",
        next: changed(world, (next) => {
          next.destination.agent = "serving";
          next.destination.todo = [
            ...takeOver(setting),
            ...(event === null ? [] : [`event ${event}`]),
          ];
          change(next);
        }),
      });
    start("a receiver is started", null);
    start("`resolve`", "resolve");
    for (const keep of decisionsAtDestination(world, setting)) {
      start(`\`resolve --keep ${keep}\``, `keep_${keep}`, ({ destination }) => {
        if (keep === "source" && destination.journal === "accepted") destination.givenUp = true;
      });
    }
  }
  return moves;
}

/** Whoever takes a journal over writes it once more: what a dead agent wrote may not be durable. */
function takeOver({ broken }: Setting): string[] {
  return broken.has("take_over_unsynced") ? [] : ["sync"];
}

/** The host that `resolve` at the destination has named; anything, where nothing is open. */
function decisionsAtSource(
  { source, destination }: World,
  { broken }: Setting,
): readonly Side[] {
  if (source.journal !== "handover_sent") return ANY;
  if (broken.has("keep_unseen")) return ["source"];
  // `resolve` there has said so: what `status` shows of an agent at work may not be durable yet.
  if (destination.forgotten || destination.durable !== destination.journal) return [];
  if (!isSettled("destination", destination.journal)) return [];
  return destination.journal === "running" ? ["destination"] : ["source"];
}

/**
 * When nobody can know whether the guest has run here. With disks that are shared, only what is safe in
 * either case; and nothing is given up here unless the source, where no agent is at work, waits for it.
 */
function decisionsAtDestination(
  { source, destination }: World,
  { copiedDisks }: Setting,
): readonly Side[] {
  if (destination.journal !== "accepted") return ANY;
  // The program refuses to give a guest up that runs; an operator is slower than QEMU.
  if (destination.qemu === "runs" || destination.cont !== "none") return [];
  const waits = source.agent === "dead" && source.durable === "handover_sent" &&
    source.journal === "handover_sent";
  const stuck = destination.qemu === "gone" || destination.sick;
  return [
    ...(stuck ? ["destination" as const] : []),
    ...(copiedDisks && waits ? ["source" as const] : []),
  ];
}
