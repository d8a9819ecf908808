// Ways to get the rule wrong, each of which the explorer must find out: a proof that it would tell if
// the table itself were wrong. Also the list of what the rules are there for, in docs/safety.md.

import { type Rule, RULES, type Rules } from "../../src/migration/ownership.ts";
import { type Break, type Setting, SOUND } from "./world.ts";

export interface Mistake {
  /** What is done wrong, as one clause. */
  readonly what: string;
  /** The kind of disks with which it shows. */
  readonly disks: "copied" | "shared";
  /** What the explorer says of it. */
  readonly finds: string;
  /** It breaks no rule, but leaves a situation that `resolve` cannot put in order. */
  readonly stuck?: true;
  readonly rules?: Rules;
  readonly broken?: Break;
}

type SourceRule = Rule<"source">;
type DestinationRule = Rule<"destination">;

export const MISTAKES: readonly Mistake[] = [
  {
    what: "the source sends the handover before its journal says so",
    disks: "copied",
    finds: "two guests may run",
    rules: source(
      { state: "owning", on: ["hand_over"] },
      { state: "owning", on: ["send_handover"], first: ["send_handover"], next: "handover_sent" },
    ),
  },
  {
    what: "the destination writes `accepted` after `cont`",
    disks: "copied",
    finds: "the guest runs at the destination, which is 'preparing'",
    rules: destination(
      { state: "preparing", on: ["handover"], after: ["run_guest"] },
      { state: "preparing", on: ["cont_done"], next: "accepted", followedBy: "cont_done" },
    ),
  },
  {
    what: "the destination writes `never_ran` before its QEMU has ended",
    disks: "copied",
    finds: "the destination is 'never_ran' and its QEMU is there",
    rules: destination({
      state: "preparing",
      on: ["failure", "cancel", "link_lost", "qemu_died", "ask", "resolve", "keep_source"],
      next: "never_ran",
      after: ["end_guest"],
      answer: "never_ran",
    }),
  },
  {
    what:
      "the destination answers `never_ran` and writes nothing, so that the handover may still come",
    disks: "copied",
    finds: "two guests may run",
    rules: destination({ state: "preparing", on: ["ask"], answer: "never_ran" }),
  },
  {
    what: "a receiver that is started again answers from its memory instead of the journal",
    disks: "copied",
    finds: "an agent has ended a QEMU that had the guest",
    broken: "answer_from_memory",
  },
  {
    what: "the source lets the guest run on when no answer comes",
    disks: "copied",
    finds: "two guests may run",
    rules: source({
      state: "handover_sent",
      on: ["failure", "link_lost", "no_answer"],
      next: "owning",
      followedBy: "failure",
    }),
  },
  {
    what: "`resolve` at the source lets the guest run on without asking",
    disks: "copied",
    finds: "two guests may run",
    rules: source({
      state: "handover_sent",
      on: ["resolve"],
      next: "owning",
      followedBy: "failure",
    }),
  },
  {
    what:
      "an operator says `--keep source` without a look at the destination, which does not answer",
    disks: "copied",
    finds: "two guests may run",
    broken: "keep_unseen",
  },
  {
    what: "the source ends its QEMU as soon as the handover is sent",
    disks: "copied",
    finds: "an agent has ended a QEMU that had the guest",
    rules: source({
      state: "handover_sent",
      on: ["send_handover"],
      after: ["send_handover", "end_guest"],
    }),
  },
  {
    what: "the destination gives an accepted guest back when the connection is lost",
    disks: "copied",
    finds: "an agent has ended a QEMU that had the guest",
    rules: destination({
      state: "accepted",
      on: ["link_lost", "resolve"],
      first: ["end_guest"],
      next: "never_ran",
    }),
  },
  {
    what: "`resolve` gives an accepted guest back whose QEMU is gone, however long it ran",
    disks: "copied",
    finds: "both hosts have given the guest away",
    rules: destination({
      state: "accepted",
      on: ["cannot_continue"],
      first: ["end_guest"],
      next: "ended",
      answer: "ended",
    }),
  },
  {
    what: "a guest that has run for a moment is given back although its disks are shared",
    disks: "shared",
    finds: "the source goes on from its pause with shared disks that the guest has used since",
    rules: destination({
      state: "accepted",
      on: ["cont_cut_off"],
      first: ["end_guest"],
      next: "ended",
      answer: "ended",
    }),
  },
  {
    what: "the journals are not made durable",
    disks: "copied",
    finds: "two guests may run",
    broken: "no_fsync",
  },
  {
    what: "`resolve` trusts a journal that was written and may not be durable",
    disks: "copied",
    finds: "the guest ran at the destination, which says that it never did",
    broken: "take_over_unsynced",
  },
  {
    what: "the destination forgets as soon as it has answered",
    disks: "copied",
    finds: "the source needs an answer that the destination has forgotten",
    broken: "forget_when_answered",
  },
  {
    what: "a destination that does not have all of the guest yet leaves no journal",
    disks: "copied",
    finds: "the source needs an answer that the destination has forgotten",
    broken: "forget_early",
  },
  {
    what: "`resolve` writes `kept` and does not let the guest run on",
    disks: "copied",
    finds: "source 'kept', destination 'never_ran', but QEMU there: stopped, gone",
    stuck: true,
    rules: source({ state: "owning", on: ["resolve"], next: "kept" }),
  },
  {
    what: "nobody may decide where it cannot be known whether an accepted guest ran",
    disks: "shared",
    finds: "not settled: source 'handover_sent', destination 'accepted'",
    stuck: true,
    rules: destination({ state: "accepted", on: ["keep_destination"], refused: "it is open" }),
  },
];

/** The world in which that mistake is made. */
export function settingOf({ disks, rules, broken }: Mistake): Setting {
  return {
    ...SOUND,
    copiedDisks: disks === "copied",
    ...(rules && { rules }),
    ...(broken && { broken: new Set([broken]) }),
  };
}

/** The table with these rules in place of what it has for their events. */
function source(...changed: SourceRule[]): Rules {
  return { ...RULES, source: [...changed, ...RULES.source] };
}

function destination(...changed: DestinationRule[]): Rules {
  return { ...RULES, destination: [...changed, ...RULES.destination] };
}
