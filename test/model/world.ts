// What the model takes two hosts to be: two journals, two agents, two QEMUs, and what travels between
// the agents. Small enough that every state can be visited; nothing in it measures time.

import {
  type Answer,
  type DestinationState,
  type Rule,
  RULES,
  type Rules,
  type SourceState,
} from "../../src/migration/ownership.ts";

/** One thing that an agent is about to do; a list of them is what it would lose with its life. */
export type Step = string;

export interface World {
  source: {
    /** What a reader of the journal finds, and what a loss of power would leave of it. */
    journal: SourceState;
    durable: SourceState;
    /** `moving`: the story up to the handover; `acting`: on its way out, or a `resolve`. */
    agent: "dead" | "moving" | "waiting" | "asking" | "acting";
    todo: readonly Step[];
    qemu: "runs" | "stopped" | "gone";
    /** How far QEMU's migration is; `stopped`: the guest is, and the last of it goes over. */
    stage: "early" | "memory" | "stopped" | "complete";
    /** Whether the destination has everything. */
    arrived: "unknown" | "asked" | "yes";
    /** Not known to anybody in the model: whether the handover was ever sent. */
    sent: boolean;
  };
  destination: {
    journal: DestinationState;
    durable: DestinationState;
    /** The journal was removed. */
    forgotten: boolean;
    /** `serving`: one that was started anew, and answers from the journal. */
    agent: "dead" | "moving" | "serving";
    todo: readonly Step[];
    replyTo: "wire" | "ask" | "nobody";
    qemu: "paused" | "runs" | "gone";
    stage: "early" | "memory" | "loaded";
    /** A `cont` that was issued is carried out later, even when its agent is dead. */
    cont: "none" | "issued" | "refused";
    /** Not known to anybody in the model: whether the guest ran here, and for longer than `cont` takes. */
    ran: "no" | "moment" | "long";
    /** An operator has given the guest up here, in so many words. */
    givenUp: boolean;
    /** QEMU has refused a `cont`. */
    sick: boolean;
  };
  /** The first connection: one message each way at most, and who still listens. */
  wire: { down: string; up: string; sourceOpen: boolean; destinationOpen: boolean };
  /** The connection on which the source asks, and asks that it has given up and that may still arrive. */
  ask: {
    at: "none" | "travels" | "taken" | "lost" | "finish" | Answer;
    /** The agent that has taken it lives. */
    open: boolean;
    loose: number;
  };
  /** An agent has ended a QEMU that had the guest. */
  lostGuest: boolean;
}

/** What one exploration takes for granted. */
export interface Setting {
  copiedDisks: boolean;
  rules: Rules;
  /** What is left out or done wrong on purpose; see broken_rules.ts. */
  broken: ReadonlySet<Break>;
  /** Gets every rule that something happened by. */
  used?: Set<Rule>;
}

/** Ways to do it wrong that no table of rules can say. */
export type Break =
  | "no_fsync"
  | "answer_from_memory"
  | "take_over_unsynced"
  | "forget_when_answered"
  | "forget_early"
  | "keep_unseen";

export const SOUND: Omit<Setting, "copiedDisks"> = { rules: RULES, broken: new Set() };

/** The guest runs at the source, and both agents have begun. */
export const START: World = {
  source: {
    journal: "owning",
    durable: "owning",
    agent: "moving",
    todo: [],
    qemu: "runs",
    stage: "early",
    arrived: "unknown",
    sent: false,
  },
  destination: {
    journal: "preparing",
    durable: "preparing",
    forgotten: false,
    agent: "moving",
    todo: [],
    replyTo: "nobody",
    qemu: "paused",
    stage: "early",
    cont: "none",
    ran: "no",
    givenUp: false,
    sick: false,
  },
  wire: { down: "", up: "", sourceOpen: true, destinationOpen: true },
  ask: { at: "none", open: false, loose: 0 },
  lostGuest: false,
};

/** Asks that were given up and still travel, beside the one that is waited for and the handover. */
export const MAX_LOOSE_ASKS = 1;

/** One thing that can happen. */
export interface Move {
  readonly label: string;
  /**
   * `step`: an agent goes on; `choice`: it could as well do something else; `message`: one arrives;
   * `qemu`: QEMU does what it was told, or what it does by itself; `fault`; `operator`.
   */
  readonly kind: "step" | "choice" | "message" | "qemu" | "fault" | "operator";
  readonly side: "source" | "destination";
  readonly next: World;
}

/** A copy that can be changed. */
export function copyOf(world: World): World {
  return {
    source: { ...world.source },
    destination: { ...world.destination },
    wire: { ...world.wire },
    ask: { ...world.ask },
    lostGuest: world.lostGuest,
  };
}

/** The world with `change` made to a copy. */
export function changed(world: World, change: (next: World) => void): World {
  const next = copyOf(world);
  change(next);
  const { destination } = next;
  if (destination.qemu === "runs") {
    const inCont = destination.agent === "moving" && destination.todo[0] === "await_cont";
    if (!inCont) destination.ran = "long";
    else if (destination.ran === "no") destination.ran = "moment";
  }
  return next;
}
