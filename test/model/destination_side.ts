// Everything that the destination's agent and its QEMU may do next. What happens when is the table of
// src/migration/ownership.ts; here is only how each effect changes the world.

import {
  type Answer,
  type DestinationEvent,
  type DestinationState,
  mayBeAskedIn,
} from "../../src/migration/ownership.ts";
import { findRule, split, stepsOf } from "./agent_steps.ts";
import { changed, type Move, type Setting, type World } from "./world.ts";

const PHASE_OF = { early: "mirror", memory: "ram", loaded: "switchover" } as const;

export function destinationMoves(world: World, setting: Setting): Move[] {
  const { destination } = world;
  const own = destination.agent === "dead"
    ? []
    : destination.todo.length > 0
    ? nextStep(world, setting)
    : [...messages(world, setting), ...failures(world, setting)];
  return [...own, ...qemuMoves(world)];
}

/** The destination's agent is gone. What was on its way to it is lost; what it has sent is not. */
export function die(next: World): void {
  const { destination, wire, ask } = next;
  destination.agent = "dead";
  destination.todo = [];
  destination.replyTo = "nobody";
  if (destination.cont === "refused") destination.cont = "none";
  wire.destinationOpen = false;
  wire.down = "";
  if (ask.at === "travels" || ask.at === "taken" || ask.at === "finish") ask.at = "lost";
  ask.open = false;
  ask.loose = 0;
}

function on(event: DestinationEvent, { world, setting, kind, before }: {
  world: World;
  setting: Setting;
  kind: Move["kind"];
  before?: (next: World) => void;
}): Move {
  return move(
    event,
    kind,
    changed(world, (next) => {
      before?.(next);
      happen(next, event, setting);
    }),
  );
}

function happen(next: World, event: DestinationEvent, setting: Setting): void {
  const { destination } = next;
  const rule = findRule(next, { side: "destination", event, setting });
  if (!rule) return;
  // It knows no more than an agent that was started anew.
  if (rule.answer === "uncertain") destination.agent = "serving";
  const forgets = rule.next !== undefined && rule.next !== "running" &&
    (setting.broken.has("forget_early")
      ? destination.stage !== "loaded"
      : !mayBeAskedIn(PHASE_OF[destination.stage]));
  destination.todo = [
    ...stepsOf(rule, setting),
    ...(forgets && rule.next !== "accepted" ? ["forget"] : []),
    ...destination.todo,
  ];
}

function nextStep(world: World, setting: Setting): Move[] {
  const step = world.destination.todo[0]!;
  const [verb, object] = split(step);
  const does = (change: (next: World) => void, text = step, kind: Move["kind"] = "step") =>
    move(
      text,
      kind,
      changed(world, (next) => {
        next.destination.todo = next.destination.todo.slice(1);
        change(next);
      }),
    );
  switch (verb) {
    case "write":
      return [does(({ destination }) => destination.journal = object as DestinationState)];
    case "sync":
      return [does(({ destination }) => destination.durable = destination.journal)];
    case "event":
      return [does((next) => happen(next, object as DestinationEvent, setting))];
    case "forget":
      return [does(({ destination }) => destination.forgotten = true)];
    case "answer":
      return [does((next) => reply(next, object as Answer, setting))];
    case "end_guest":
      return [does((next) => {
        if (next.destination.qemu === "runs") next.lostGuest = true;
        next.destination.qemu = "gone";
        next.destination.cont = "none";
      })];
    case "run_guest":
      return runGuest(world, setting, does);
    case "await_cont":
      return awaitCont(world, setting, does);
    default:
      throw new Error(`The destination knows no step '${step}'`);
  }
}

type Does = (change: (next: World) => void, text?: string, kind?: Move["kind"]) => Move;

function runGuest({ destination }: World, setting: Setting, does: Does): Move[] {
  const first = destination.agent === "moving";
  if (destination.qemu === "gone") {
    return [does((next) => happen(next, first ? "qemu_died" : "cannot_continue", setting))];
  }
  return [does(
    (next) => {
      if (next.destination.qemu === "paused") next.destination.cont = "issued";
      next.destination.todo = ["await_cont", ...next.destination.todo];
    },
    "issues `cont`",
  )];
}

function awaitCont({ destination }: World, setting: Setting, does: Does): Move[] {
  const first = destination.agent === "moving";
  const then = (event: DestinationEvent) =>
    does(
      (next) => {
        next.destination.cont = "none";
        happen(next, event, setting);
      },
      event,
    );
  if (destination.qemu === "gone") return [then(first ? "cont_cut_off" : "cannot_continue")];
  if (destination.cont === "refused") return [then(first ? "cont_refused" : "cannot_continue")];
  if (destination.cont === "none") return [then("cont_done")];
  // It waits no longer, and knows no more than one that was started anew.
  const late = (next: World) => {
    next.destination.agent = "serving";
    happen(next, "failure", setting);
  };
  return first ? [does(late, "`cont` takes too long", "choice")] : [];
}

function reply(next: World, answer: Answer, setting: Setting): void {
  const { destination, wire, ask } = next;
  if (destination.replyTo === "wire" && wire.sourceOpen && wire.destinationOpen) wire.up = answer;
  if (destination.replyTo === "ask" && ask.at === "taken") {
    ask.at = answer;
    if (setting.broken.has("forget_when_answered")) destination.todo = ["forget"];
  }
  destination.replyTo = "nobody";
}

function messages(world: World, setting: Setting): Move[] {
  const { destination, wire, ask } = world;
  const moves: Move[] = [];
  const arrives = (text: string, change: (next: World) => void) =>
    moves.push(move(text, "message", changed(world, change)));
  if (destination.agent === "moving" && wire.destinationOpen) {
    const taken = (change: (next: World) => void) => (next: World) => {
      next.wire.down = "";
      change(next);
    };
    const preparing = destination.journal === "preparing";
    if (wire.down === "incoming") {
      arrives(
        "is asked to take the memory",
        taken((next) => {
          if (!preparing) return;
          next.destination.stage = "memory";
          if (next.wire.sourceOpen) next.wire.up = "incoming_ok";
        }),
      );
    } else if (wire.down === "arrived" && (destination.stage === "loaded" || !preparing)) {
      arrives(
        "says that everything has arrived",
        taken((next) => {
          if (preparing && next.wire.sourceOpen) next.wire.up = "arrived_ok";
        }),
      );
    } else if (wire.down === "handover" && !destination.forgotten) {
      moves.push(on("handover", {
        world,
        setting,
        kind: "message",
        before: taken((next) => next.destination.replyTo = "wire"),
      }));
    } else if (wire.down === "finish") {
      arrives("forgets", taken((next) => next.destination.forgotten = true));
    }
  }
  const asked = (change: (next: World) => void) => {
    if (destination.forgotten) return arrives("knows no such migration", change);
    moves.push(on("ask", { world, setting, kind: "message", before: change }));
  };
  if (ask.at === "travels") {
    asked((next) => {
      next.ask.at = destination.forgotten ? "uncertain" : "taken";
      next.ask.open = true;
      next.destination.replyTo = "ask";
    });
  }
  if (ask.loose > 0) asked((next) => next.ask.loose -= 1);
  if (ask.at === "finish") {
    arrives("forgets", (next) => {
      next.ask.at = "taken";
      next.destination.forgotten = true;
    });
  }
  return moves;
}

function failures(world: World, setting: Setting): Move[] {
  const { destination, wire } = world;
  if (destination.agent !== "moving" || destination.forgotten) return [];
  const moves: Move[] = [];
  const may = (event: DestinationEvent, before?: (next: World) => void) =>
    moves.push(on(event, { world, setting, kind: "choice", ...(before && { before }) }));
  may("failure");
  may("cancel");
  if (wire.destinationOpen) {
    may("link_lost", (next) => {
      next.wire.destinationOpen = false;
      next.wire.down = "";
    });
  }
  if (destination.qemu === "gone" && destination.journal !== "accepted") may("qemu_died");
  return moves;
}

function qemuMoves(world: World): Move[] {
  const { source, destination, wire } = world;
  const moves: Move[] = [];
  if (destination.cont === "issued") {
    moves.push(move(
      "QEMU carries out `cont`",
      "qemu",
      changed(world, (next) => {
        next.destination.cont = "none";
        next.destination.qemu = "runs";
      }),
    ));
    if (destination.ran === "no") {
      moves.push(move(
        "QEMU refuses `cont`",
        "fault",
        changed(world, (next) => {
          next.destination.cont = destination.agent === "dead" ? "none" : "refused";
          next.destination.sick = true;
        }),
      ));
    }
  }
  const linked = source.agent !== "dead" && wire.sourceOpen && wire.destinationOpen;
  if (
    linked && source.stage === "stopped" && source.qemu === "stopped" &&
    destination.agent === "moving" && destination.journal === "preparing" &&
    destination.qemu === "paused" && destination.stage === "memory"
  ) {
    moves.push(move(
      "QEMU has loaded everything",
      "qemu",
      changed(world, (next) => next.destination.stage = "loaded"),
    ));
  }
  return moves;
}

function move(label: string, kind: Move["kind"], next: World): Move {
  return { label: `destination: ${label}`, kind, side: "destination", next };
}
