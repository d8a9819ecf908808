// The way out that docs/safety.md gives for every state: end the agents, `resolve` at the destination,
// then at the source. Followed here from any world without further faults.

import { withoutAgents } from "./faults.ts";
import { findDisorder } from "./invariants.ts";
import { sourceMoves } from "./source_side.ts";
import { destinationMoves } from "./destination_side.ts";
import { operatorMoves } from "./operator.ts";
import type { Setting, World } from "./world.ts";

/** More than any side ever has to do. */
const MAX_STEPS = 50;

/** The ways to follow the documentation that must all end well. */
const WAYS = [
  { first: "destination", keep: "destination", serve: false },
  { first: "destination", keep: "source", serve: false },
  { first: "source", keep: "destination", serve: false },
  { first: "destination", keep: "destination", serve: true },
] as const;
type Way = typeof WAYS[number];

/** Follows the documentation from any world; remembers what it has seen. */
export class Recovery {
  readonly #setting: Setting;
  readonly #known = new Map<string, string | null>();

  constructor(setting: Setting) {
    this.#setting = setting;
  }

  /** How many different starting points have been tried. */
  get count(): number {
    return this.#known.size;
  }

  /** Why it does not put things in order; null when it does. */
  findFailure(world: World): string | null {
    const start = this.#untilQuiet(withoutAgents(world));
    const key = JSON.stringify(start);
    let failure = this.#known.get(key);
    if (failure === undefined) {
      failure = this.#tryAll(start);
      this.#known.set(key, failure);
    }
    return failure;
  }

  #tryAll(start: World): string | null {
    for (const way of WAYS) {
      const world = this.#follow(start, way);
      const disorder = findDisorder(world);
      if (disorder !== null) {
        return `${way.first} first, --keep ${way.keep}${
          way.serve ? ", with a receiver started" : ""
        }: ${disorder}`;
      }
      const again = this.#follow(world, way);
      if (JSON.stringify(again) !== JSON.stringify(world)) return "resolving twice is not the same";
    }
    return null;
  }

  #follow(start: World, way: Way): World {
    let world = start;
    if (way.serve) {
      world = this.#operate(world, "destination: a receiver is started");
      world = withoutAgents(this.#resolve(world, "source"));
    }
    if (way.first === "source") world = this.#resolve(world, "source");
    world = this.#resolve(world, "destination");
    if (world.destination.journal === "accepted") {
      world = this.#operate(world, `destination: \`resolve --keep ${way.keep}\``);
      // With shared disks there is one answer only.
      world = this.#operate(world, "destination: `resolve --keep destination`");
    }
    world = this.#resolve(world, "source");
    world = this.#operate(world, "source: `resolve --keep source`");
    world = this.#operate(world, "source: `resolve --keep destination`");
    return withoutAgents(world);
  }

  #resolve(world: World, side: "source" | "destination"): World {
    return this.#operate(world, `${side}: \`resolve\``);
  }

  /** Does it if it can be done, and waits until everything has happened that follows. */
  #operate(world: World, label: string): World {
    const move = operatorMoves(world, this.#setting).find((move) => move.label === label);
    if (!move) return world;
    const done = this.#untilQuiet(move.next);
    return move.next.destination.todo.some((step) => step.startsWith("event"))
      ? withoutAgents(done)
      : done;
  }

  /** What happens without anybody's doing; an agent asks once. */
  #untilQuiet(world: World): World {
    let asked = false;
    for (let steps = 0; steps < MAX_STEPS; steps += 1) {
      const moves = [
        ...destinationMoves(world, this.#setting),
        ...sourceMoves(world, this.#setting),
      ];
      const ask: string = asked
        ? "source: asks no more: uncertain"
        : "source: asks over a new connection";
      const move = moves.find(({ kind }) =>
        kind === "step" || kind === "message" || kind === "qemu"
      ) ??
        moves.find(({ label }) => label === ask || label === "source: no_answer");
      if (!move) return world;
      asked ||= move.label === ask;
      world = move.next;
    }
    throw new Error(`This comes to no end: ${JSON.stringify(world)}`);
  }
}
