// What may befall either host at any moment: its agent is killed, its QEMU dies, its power fails. A
// lost connection is a choice of the agents: each may see it whenever it likes.

import { die } from "./destination_side.ts";
import { leave } from "./source_side.ts";
import { changed, type Move, type World } from "./world.ts";

export function faultMoves(world: World): Move[] {
  const { source, destination } = world;
  const moves: Move[] = [];
  const may = (side: Move["side"], text: string, change: (next: World) => void) =>
    moves.push({ label: `${side}: ${text}`, kind: "fault", side, next: changed(world, change) });
  if (source.agent !== "dead") may("source", "the agent is killed", leave);
  if (destination.agent !== "dead") may("destination", "the agent is killed", die);
  if (source.qemu !== "gone") may("source", "QEMU dies", loseSourceQemu);
  if (destination.qemu !== "gone") may("destination", "QEMU dies", loseDestinationQemu);
  for (const survives of ["journal", "durable"] as const) {
    if (survives === "journal" || source.journal !== source.durable) {
      may("source", `power fails${lost(survives)}`, (next) => {
        leave(next);
        loseSourceQemu(next);
        next.source.journal = next.source.durable = next.source[survives];
      });
    }
    if (survives === "journal" || destination.journal !== destination.durable) {
      may("destination", `power fails${lost(survives)}`, (next) => {
        die(next);
        loseDestinationQemu(next);
        next.destination.journal = next.destination.durable = next.destination[survives];
      });
    }
  }
  return moves;
}

/** Ends what agents there are, as an operator does who is at a loss. */
export function withoutAgents(world: World): World {
  return changed(world, (next) => {
    leave(next);
    die(next);
  });
}

function lost(survives: "journal" | "durable"): string {
  return survives === "durable" ? ", and what was not durable is lost" : "";
}

function loseSourceQemu({ source }: World): void {
  source.qemu = "gone";
}

function loseDestinationQemu({ destination }: World): void {
  destination.qemu = "gone";
  destination.cont = "none";
}
