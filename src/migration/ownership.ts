// Who may run the guest: the states of each side, and what each side does on every event, as data.
// The agents carry these rules out, test/model explores them, docs/safety.md is made from them; there
// is no other place that decides who owns the guest. Knows neither QEMU nor files nor the wire.

import { AgentError, type Side } from "../base/errors.ts";
import { type PhaseName, PHASES } from "./phases.ts";

export type SourceState = "owning" | "handover_sent" | "handed_over" | "kept";
export type DestinationState = "preparing" | "accepted" | "running" | "never_ran" | "ended";
export type OwnershipState = SourceState | DestinationState;
type StateOf = { source: SourceState; destination: DestinationState };

/** What one side's journal says about the guest. */
export interface StateFacts {
  /** Whether this side may let the guest run. */
  readonly mayRun: boolean;
  /** Nothing is left to decide: this state never changes again. */
  readonly settled: boolean;
  readonly meaning: string;
}

export const STATES: { readonly [S in Side]: Readonly<Record<StateOf[S], StateFacts>> } = {
  source: {
    owning: { mayRun: true, settled: false, meaning: "the guest is the source's" },
    handover_sent: {
      mayRun: false,
      settled: false,
      meaning: "the handover may have been sent and no answer is known: the guest is not let run",
    },
    handed_over: {
      mayRun: false,
      settled: true,
      meaning: "the guest is the destination's for good; what is paused here is ended",
    },
    kept: { mayRun: true, settled: true, meaning: "the guest stays the source's for good" },
  },
  destination: {
    preparing: { mayRun: false, settled: false, meaning: "the guest is still the source's" },
    accepted: {
      mayRun: true,
      settled: false,
      meaning: "the guest is the destination's; `cont` has been issued or is about to be",
    },
    running: { mayRun: true, settled: true, meaning: "the guest was let run here: it is here" },
    never_ran: {
      mayRun: false,
      settled: true,
      meaning: "the guest never ran here, its QEMU is gone: the source may run it",
    },
    ended: {
      mayRun: false,
      settled: true,
      meaning:
        "the guest ran here for a moment at most, or an operator gave it up, and its QEMU is " +
        "gone: the source may run it",
    },
  },
};

/**
 * What the destination says of a guest that was handed over. `uncertain`: it was accepted here, and
 * whether it has run is not known; as good as no answer.
 */
export type Answer = "running" | "never_ran" | "ended" | "uncertain";

/** What happens to either side. */
export type CommonEvent = keyof typeof COMMON_EVENTS;
export const COMMON_EVENTS = {
  failure: "a step fails, or a time limit passes",
  cancel: "somebody cancels",
  link_lost: "the connection is lost",
  qemu_died: "its QEMU dies",
  resolve: "`resolve`, or the same command again",
  keep_source: "`resolve --keep source`",
  keep_destination: "`resolve --keep destination`",
} as const;

export type SourceEvent = CommonEvent | keyof typeof SOURCE_EVENTS;
export const SOURCE_EVENTS = {
  hand_over: "the guest is stopped, and the last of it is on its way",
  send_handover: "the destination has everything",
  not_sent:
    "something fails, or somebody cancels, and the agent knows that it has sent no handover",
  answer_running: "the destination answers `running`",
  answer_never_ran: "the destination answers `never_ran`, or refuses the handover",
  answer_ended: "the destination answers `ended`",
  no_answer: "no answer comes, or `uncertain`, or the destination does not know the migration",
} as const;

export type DestinationEvent = CommonEvent | keyof typeof DESTINATION_EVENTS;
export const DESTINATION_EVENTS = {
  handover: "the handover arrives",
  ask: "the source asks over a new connection",
  cont_done: "`cont` succeeds",
  cont_refused: "QEMU refuses the first `cont`",
  cont_cut_off: "QEMU dies while the agent that took the handover waits for `cont`",
  cannot_continue: "after the agent was killed: QEMU is gone, or refuses `cont`",
} as const;
type EventOf = { source: SourceEvent; destination: DestinationEvent };

/**
 * What is done beside writing the journal. `run_guest`: the guest runs on (at the source: what the
 * migration has changed is put back first). `end_guest`: this side's QEMU has ended for certain.
 */
export type Effect = "send_handover" | "ask" | "run_guest" | "end_guest";

/** What one side does when something happens in one state. */
export interface Rule<S extends Side = Side> {
  readonly state: StateOf[S];
  readonly on: readonly EventOf[S][];
  /** Only with disks that were copied, or only with shared ones; always, when left out. */
  readonly disks?: "copied" | "shared";
  /** Done for certain before the journal says so. */
  readonly first?: readonly Effect[];
  /** Written durably, file and folder, before anything in `after`; left out: nothing changes. */
  readonly next?: StateOf[S];
  /** Done only when `next` is durable. */
  readonly after?: readonly Effect[];
  /** Told to the source at the very end. */
  readonly answer?: Answer;
  /** The answer need not wait for the journal: what was durable before bears it out. */
  readonly answerFirst?: true;
  /** The event that follows at once. */
  readonly followedBy?: EventOf[S];
  /** Why whoever asked for it is told no. */
  readonly refused?: string;
  /** What the columns above do not say. */
  readonly note?: string;
}

export const SOURCE_RULES: readonly Rule<"source">[] = [
  {
    state: "owning",
    on: ["failure", "cancel", "link_lost", "qemu_died", "resolve", "keep_source"],
    first: ["run_guest"],
    next: "kept",
    note: "a guest whose QEMU died is still the source's, with its disks",
  },
  {
    state: "owning",
    on: ["hand_over"],
    next: "handover_sent",
    note: "at the same time as the last of the guest goes over: the pause is shorter",
  },
  { state: "owning", on: ["keep_destination"], refused: "the guest was not handed over" },
  { state: "handover_sent", on: ["send_handover"], after: ["send_handover"] },
  { state: "handover_sent", on: ["not_sent"], next: "owning", followedBy: "failure" },
  {
    state: "handover_sent",
    on: ["answer_running"],
    next: "handed_over",
    after: ["end_guest"],
  },
  {
    state: "handover_sent",
    on: ["answer_never_ran", "answer_ended"],
    next: "owning",
    followedBy: "failure",
  },
  {
    state: "handover_sent",
    on: ["failure", "link_lost", "no_answer", "resolve"],
    after: ["ask"],
    note: "the sender asks until `--handover-timeout` has passed, `resolve` once; " +
      "then exit code 6, and the guest stays paused",
  },
  {
    state: "handover_sent",
    on: ["qemu_died"],
    note: "waits and asks as before: the guest may run at the destination",
  },
  {
    state: "handover_sent",
    on: ["cancel"],
    refused: "the handover was sent: the guest may run at the destination",
  },
  {
    state: "handover_sent",
    on: ["keep_source"],
    next: "owning",
    followedBy: "failure",
    note: "asks first, and is refused when the destination answers `running`",
  },
  {
    state: "handover_sent",
    on: ["keep_destination"],
    next: "handed_over",
    after: ["end_guest"],
    note: "asks first, and is refused when the destination answers `never_ran` or `ended`",
  },
  { state: "handed_over", on: ["failure", "link_lost", "qemu_died"], note: "a warning at most" },
  { state: "handed_over", on: ["resolve", "keep_destination"], after: ["end_guest"] },
  {
    state: "handed_over",
    on: ["cancel", "keep_source"],
    refused: "the guest is the destination's",
  },
  {
    state: "kept",
    on: ["failure", "link_lost", "qemu_died", "resolve", "keep_source"],
  },
  { state: "kept", on: ["cancel"], refused: "the migration has ended" },
  { state: "kept", on: ["keep_destination"], refused: "the guest stayed at the source" },
];

export const DESTINATION_RULES: readonly Rule<"destination">[] = [
  { state: "preparing", on: ["handover"], next: "accepted", after: ["run_guest"] },
  {
    state: "preparing",
    on: ["failure", "cancel", "link_lost", "qemu_died", "ask", "resolve", "keep_source"],
    first: ["end_guest"],
    next: "never_ran",
    answer: "never_ran",
  },
  {
    state: "preparing",
    on: ["keep_destination"],
    refused: "the guest was not accepted here: it is the source's",
  },
  {
    state: "accepted",
    on: ["cont_done"],
    next: "running",
    answer: "running",
    answerFirst: true,
    note: "`accepted` is durable, which is enough for the answer",
  },
  {
    state: "accepted",
    on: ["cont_refused", "qemu_died"],
    first: ["end_guest"],
    next: "never_ran",
    answer: "never_ran",
    note: "its QEMU dies before `cont` is issued: only the agent that took the handover knows that",
  },
  {
    state: "accepted",
    on: ["cont_cut_off"],
    disks: "copied",
    first: ["end_guest"],
    next: "ended",
    answer: "ended",
  },
  {
    state: "accepted",
    on: ["cont_cut_off"],
    disks: "shared",
    answer: "uncertain",
    note: "the guest may have written to the disks: an operator decides",
  },
  { state: "accepted", on: ["cancel"], refused: "the guest was accepted here" },
  {
    state: "accepted",
    on: ["handover", "ask", "resolve", "failure", "link_lost"],
    after: ["run_guest"],
    note: "the handover goes on",
  },
  {
    state: "accepted",
    on: ["cannot_continue"],
    answer: "uncertain",
    note: "how long the guest ran is not known: an operator decides",
  },
  {
    state: "accepted",
    on: ["keep_source"],
    first: ["end_guest"],
    next: "ended",
    answer: "ended",
    note: "refused while the guest runs here",
  },
  {
    state: "accepted",
    on: ["keep_destination"],
    next: "running",
    answer: "running",
    note: "does what `resolve` does first; a guest that cannot go on counts as here, and is " +
      "started anew from its disks here",
  },
  {
    state: "running",
    on: ["handover", "ask", "resolve", "failure", "link_lost", "qemu_died", "keep_destination"],
    answer: "running",
    note: "a guest whose QEMU died is still the destination's, with its disks",
  },
  { state: "running", on: ["cancel", "keep_source"], refused: "the guest is the destination's" },
  ...settledWithout("never_ran", "the guest never ran here"),
  ...settledWithout("ended", "the guest was given up here"),
];

function settledWithout(
  state: "never_ran" | "ended",
  refused: string,
): readonly Rule<"destination">[] {
  return [
    {
      state,
      on: ["handover", "ask", "resolve", "failure", "link_lost", "qemu_died", "keep_source"],
      answer: state,
    },
    { state, on: ["cancel", "keep_destination"], refused },
  ];
}

/** Whether that side may let the guest run, by its journal's state. */
export function mayRun<S extends Side>(side: S, state: StateOf[S]): boolean {
  return STATES[side][state].mayRun;
}

/**
 * Whether the source may have written `handover_sent` when the destination is in that phase. Then the
 * destination's journal stays until the source has said that its own outcome is durable.
 */
export function mayBeAskedIn(phase: PhaseName | null): boolean {
  const names = PHASES.map(({ name }) => name);
  return phase !== null && names.indexOf(phase) >= names.indexOf("ram");
}

/** Whether nothing is left to decide on that side; a settled state never changes. */
export function isSettled<S extends Side>(side: S, state: StateOf[S]): boolean {
  return STATES[side][state].settled;
}

export interface Circumstances {
  /** Whether every disk that the guest may write was copied: none is shared. */
  readonly copiedDisks: boolean;
}

/** Which rules are in force: these, unless a test breaks them on purpose. */
export type Rules = { readonly [S in Side]: readonly Rule<S>[] };
export const RULES: Rules = { source: SOURCE_RULES, destination: DESTINATION_RULES };

/** What that side does when `event` happens in `state`; an event that cannot happen there is a defect. */
export function ruleFor<S extends Side>(
  side: S,
  state: StateOf[S],
  options: { event: EventOf[S]; rules?: Rules } & Circumstances,
): Rule<S> {
  const { event, copiedDisks, rules = RULES } = options;
  const disks = copiedDisks ? "copied" : "shared";
  const rule = rules[side].find((candidate) =>
    candidate.state === state && candidate.on.includes(event) &&
    (candidate.disks ?? disks) === disks
  );
  if (rule) return rule;
  throw new AgentError("ownership_rule", `'${event}' cannot happen on the ${side} in '${state}'`, {
    kind: "internal",
    side,
  });
}

/** What the answer of the destination is to the source; null: none came. */
export function eventOfAnswer(answer: Answer | null): SourceEvent {
  return answer === null || answer === "uncertain" ? "no_answer" : `answer_${answer}`;
}

/** What `carryOut` needs of a side: how an effect is brought about, and how its journal is written. */
export interface Hands<S extends Side> {
  /** Resolves when the effect is certain. */
  readonly perform: (effect: Effect) => Promise<void>;
  /** Resolves when the state is durable. */
  readonly write: (state: StateOf[S]) => Promise<void>;
}

/**
 * Does what a rule says, in its order. When a step fails, nothing after it is done and the error is
 * thrown: the state stays what the journal says. The caller sends the answer.
 */
export async function carryOut<S extends Side>(rule: Rule<S>, hands: Hands<S>): Promise<void> {
  for (const effect of rule.first ?? []) await hands.perform(effect);
  if (rule.next !== undefined) await hands.write(rule.next);
  for (const effect of rule.after ?? []) await hands.perform(effect);
}
