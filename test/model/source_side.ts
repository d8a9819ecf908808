// Everything that the source's agent and its QEMU may do next. What happens when is the table of
// src/migration/ownership.ts; here is only how each effect changes the world.

import {
  type Answer,
  eventOfAnswer,
  type SourceEvent,
  type SourceState,
} from "../../src/migration/ownership.ts";
import { findRule, split, stepsOf } from "./agent_steps.ts";
import { changed, MAX_LOOSE_ASKS, type Move, type Setting, type World } from "./world.ts";

export function sourceMoves(world: World, setting: Setting): Move[] {
  const { source } = world;
  const own = source.agent === "dead"
    ? []
    : source.todo.length > 0
    ? nextStep(world, setting)
    : source.agent === "moving"
    ? [...storyMoves(world, setting), ...failures(world, setting)]
    : source.agent === "waiting"
    ? waitingMoves(world, setting)
    : source.agent === "asking"
    ? askingMoves(world, setting)
    : [move("ends", "step", changed(world, leave))];
  return [...own, ...qemuMoves(world)];
}

/** The source's agent is gone: killed, or at its end. What it has sent may still arrive. */
export function leave(next: World): void {
  next.source.agent = "dead";
  next.source.todo = [];
  next.source.arrived = "unknown";
  closeWire(next);
  dropAsk(next);
}

/** Lets an event happen to the agent, by the table. */
function on(event: SourceEvent, { world, setting, kind, before }: {
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

function happen(next: World, event: SourceEvent, setting: Setting): void {
  const rule = findRule(next, { side: "source", event, setting });
  if (!rule) return;
  const { source } = next;
  // The destination may forget once the outcome is durable here.
  const settled = event.startsWith("answer_") ? ["confirm"] : [];
  const steps = stepsOf(rule, setting, settled);
  source.todo = [...steps, ...source.todo];
  const waits = source.agent === "waiting" || source.agent === "asking";
  if (source.agent === "moving" && event !== "hand_over" && event !== "send_handover") {
    source.agent = "acting";
    closeWire(next);
  } else if (waits && rule.next !== undefined) source.agent = "acting";
  else if (source.agent === "asking") source.agent = "acting";
}

function nextStep(world: World, setting: Setting): Move[] {
  const step = world.source.todo[0]!;
  const [verb, object] = split(step);
  const does = (change: (next: World) => void, text = step, kind: Move["kind"] = "step") =>
    move(
      text,
      kind,
      changed(world, (next) => {
        next.source.todo = next.source.todo.slice(1);
        change(next);
      }),
    );
  switch (verb) {
    case "write":
      return [does(({ source }) => source.journal = object as SourceState)];
    case "sync":
      return [does(({ source }) => source.durable = source.journal)];
    case "event":
      return [does((next) => happen(next, object as SourceEvent, setting))];
    case "send_handover":
      return [does((next) => {
        send(next.wire, "handover");
        next.source.sent = true;
        if (next.source.agent === "moving") next.source.agent = "waiting";
      })];
    case "run_guest":
      return [does(({ source }) => {
        if (source.qemu === "gone") return;
        source.qemu = "runs";
        source.stage = "early";
      })];
    case "end_guest":
      return [does((next) => {
        const given = next.source.journal === "handed_over" && next.source.qemu !== "runs";
        if (!given && next.source.qemu !== "gone") next.lostGuest = true;
        next.source.qemu = "gone";
      })];
    case "ask":
      return [
        does(
          (next) => {
            dropAsk(next);
            closeWire(next);
            next.source.agent = "asking";
            next.ask.at = next.destination.agent === "dead" ? "lost" : "travels";
          },
          "asks over a new connection",
          "choice",
        ),
        does(leave, "asks no more: uncertain", "choice"),
      ];
    case "confirm":
      return [does(
        ({ wire, ask }) => {
          if (wire.sourceOpen) send(wire, "finish");
          else if (ask.open) ask.at = "finish";
        },
        "tells that the outcome is durable",
      )];
    default:
      throw new Error(`The source knows no step '${step}'`);
  }
}

function storyMoves(world: World, setting: Setting): Move[] {
  const { source, wire } = world;
  const moves: Move[] = [];
  const may = (event: SourceEvent, before?: (next: World) => void) =>
    moves.push(on(event, { world, setting, kind: "step", ...(before && { before }) }));
  if (source.stage === "early" && wire.down === "" && wire.up === "") {
    moves.push(
      move("sends `incoming`", "step", changed(world, (next) => send(next.wire, "incoming"))),
    );
  }
  if (wire.up === "incoming_ok") {
    moves.push(receive(world, (next) => next.source.stage = "memory"));
  }
  if (wire.up === "arrived_ok") {
    moves.push(receive(world, (next) => next.source.arrived = "yes"));
  }
  const stopped = source.stage === "stopped" || source.stage === "complete";
  if (stopped && source.arrived === "unknown") {
    may("hand_over", (next) => {
      send(next.wire, "arrived");
      next.source.arrived = "asked";
    });
  }
  if (source.stage === "complete" && source.arrived === "yes") may("send_handover");
  return moves;
}

/** What ends the story before the handover was sent. */
function failures(world: World, setting: Setting): Move[] {
  const { source } = world;
  const events: SourceEvent[] = source.journal === "handover_sent"
    ? ["not_sent"]
    : ["failure", "cancel", "link_lost", ...(source.qemu === "gone" ? ["qemu_died" as const] : [])];
  return events.map((event) => on(event, { world, setting, kind: "choice" }));
}

function waitingMoves(world: World, setting: Setting): Move[] {
  const { up } = world.wire;
  const answered = up === "" ? [] : [on(eventOfAnswer(up as Answer), {
    world,
    setting,
    kind: "message",
    before: (next) => next.wire.up = "",
  })];
  const events = ["link_lost", "failure", "cancel", "qemu_died"] as const;
  return [
    ...answered,
    ...events.map((event) => on(event, { world, setting, kind: "choice" })),
  ];
}

function askingMoves(world: World, setting: Setting): Move[] {
  const { at } = world.ask;
  const answered = at === "running" || at === "never_ran" || at === "ended" || at === "uncertain";
  return [
    ...(answered
      ? [on(eventOfAnswer(at), {
        world,
        setting,
        kind: "message",
        before: (next) => next.ask.at = "taken", // the connection stays
      })]
      : []),
    on("no_answer", { world, setting, kind: "choice", before: dropAsk }),
  ];
}

function qemuMoves(world: World): Move[] {
  const { source, destination, wire } = world;
  const linked = source.agent !== "dead" && destination.agent === "moving" && wire.sourceOpen &&
    wire.destinationOpen && destination.qemu !== "gone";
  const moves: Move[] = [];
  const may = (text: string, change: (next: World) => void) =>
    moves.push(move(text, "qemu", changed(world, change)));
  if (source.qemu === "runs" && source.stage === "memory" && linked) {
    may("QEMU stops the guest for the switchover", (next) => {
      next.source.qemu = "stopped";
      next.source.stage = "stopped";
    });
  }
  if (source.qemu === "stopped" && source.stage === "stopped") {
    if (linked && destination.stage === "loaded") {
      may("QEMU has sent everything", (next) => next.source.stage = "complete");
    }
    if (!linked) {
      may("QEMU's migration fails, and it lets the guest run on", (next) => {
        next.source.qemu = "runs";
        next.source.stage = "early";
      });
    }
  }
  return moves;
}

function receive(world: World, change: (next: World) => void): Move {
  return move(
    `receives ${world.wire.up}`,
    "message",
    changed(world, (next) => {
      next.wire.up = "";
      change(next);
    }),
  );
}

/** What is sent to somebody who listens no more is lost. */
function send(wire: World["wire"], message: string): void {
  if (wire.sourceOpen && wire.destinationOpen) wire.down = message;
}

function closeWire({ wire }: World): void {
  wire.sourceOpen = false;
  wire.up = "";
}

/** Gives up the connection on which it asks; what travels on it may still arrive. */
function dropAsk({ ask }: World): void {
  if (ask.at === "travels") ask.loose = Math.min(ask.loose + 1, MAX_LOOSE_ASKS);
  ask.at = "none";
  ask.open = false;
}

function move(label: string, kind: Move["kind"], next: World): Move {
  return { label: `source: ${label}`, kind, side: "source", next };
}
