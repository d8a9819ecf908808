// Writes the tables of docs/safety.md from the rules and the phases, and what the model counts:
// `deno run -A scripts/generate_safety_doc.ts`. Tests compare the file with what this makes.

import type { Side } from "../src/base/errors.ts";
import {
  COMMON_EVENTS,
  DESTINATION_EVENTS,
  type DestinationState,
  type Effect,
  type Rule,
  RULES,
  SOURCE_EVENTS,
  type SourceState,
  STATES,
} from "../src/migration/ownership.ts";
import { type Phase, type PhaseName, PHASES } from "../src/migration/phases.ts";
import { MISTAKES } from "../test/model/broken_rules.ts";
import { describeCounts, exploreAll } from "../test/model/main.ts";
import { describeOwner } from "./generate_phases_doc.ts";
import { code, replaceParts, table } from "./markdown.ts";

export const SAFETY_DOC = new URL("../docs/safety.md", import.meta.url);

/** What each side's journal says in a phase that goes well; in the order in which it does. */
export const STATES_IN_PHASE: Readonly<
  Record<PhaseName, { source: SourceState[]; destination: DestinationState[] }>
> = {
  preflight: { source: ["owning"], destination: ["preparing"] },
  params: { source: ["owning"], destination: ["preparing"] },
  mirror: { source: ["owning"], destination: ["preparing"] },
  ram: { source: ["owning"], destination: ["preparing"] },
  switchover: { source: ["owning", "handover_sent"], destination: ["preparing"] },
  handover: { source: ["handover_sent"], destination: ["preparing", "accepted"] },
  end: { source: ["handed_over"], destination: ["accepted", "running"] },
};

/** The parts that need no exploring. */
export function makeTables(): Record<string, string> {
  return {
    states: table(
      ["side", "journal", "may it let the guest run?", "settled", "meaning"],
      (["source", "destination"] as const).flatMap((side) =>
        Object.entries(STATES[side]).map(([state, facts]) => [
          side,
          code(state),
          facts.mayRun ? "**yes**" : "no",
          facts.settled ? "yes" : "no",
          facts.meaning,
        ])
      ),
    ),
    phases: table(
      ["phase", "owner", "the guest", "source's journal", "destination's journal", "cancel"],
      PHASES.map(describePhase),
    ),
    source: describeRules("source"),
    destination: describeRules("destination"),
    mistakes: table(
      ["when this is done wrong", "the explorer says"],
      MISTAKES.map(({ what, finds }) => [what, finds]),
    ),
  };
}

function describePhase(phase: Phase): string[] {
  const { source, destination } = STATES_IN_PHASE[phase.name];
  return [
    code(phase.name),
    describeOwner(phase.owner),
    phase.guestRuns ? "runs" : "stopped",
    source.map(code).join(", then "),
    destination.map(code).join(", then "),
    phase.cancellable ? "yes" : "refused",
  ];
}

function describeRules<S extends Side>(side: S): string {
  const texts: Readonly<Record<string, string>> = {
    ...COMMON_EVENTS,
    ...(side === "source" ? SOURCE_EVENTS : DESTINATION_EVENTS),
  };
  const rules: readonly Rule[] = RULES[side];
  return table(
    ["journal", "what happens", "what is done, in this order"],
    rules.map((rule) => [
      code(rule.state),
      rule.on.map((event) => texts[event]).join("; ") +
      (rule.disks ? ` (${rule.disks} disks)` : ""),
      describeDeeds(rule, side),
    ]),
  );
}

function describeDeeds(rule: Rule, side: Side): string {
  const effects = { ...EFFECTS, ...(side === "source" ? SOURCE_EFFECTS : DESTINATION_EFFECTS) };
  const answer = rule.answer === undefined ? [] : [`answers ${code(rule.answer)}`];
  const deeds = [
    ...(rule.first ?? []).map((effect) => effects[effect]),
    ...(rule.answerFirst ? answer : []),
    ...(rule.next === undefined ? [] : [`**writes ${code(rule.next)}**`]),
    ...(rule.after ?? []).map((effect) => effects[effect]),
    ...(rule.answerFirst ? [] : answer),
    ...(rule.followedBy === undefined ? [] : [`goes on as when ${FOLLOWS[rule.followedBy]}`]),
  ];
  const refused = rule.refused === undefined ? [] : [`refused: ${rule.refused}`];
  const text = [...deeds, ...refused].join("; ") || "nothing";
  return rule.note === undefined ? text : `${text} (${rule.note})`;
}

const EFFECTS = { send_handover: "sends the handover", ask: "asks over a new connection" };
const SOURCE_EFFECTS: Record<Effect, string> = {
  ...EFFECTS,
  run_guest: "puts back what the migration has changed, and the guest runs on",
  end_guest: "ends its QEMU, unless it is meant to stay",
};
const DESTINATION_EFFECTS: Record<Effect, string> = {
  ...EFFECTS,
  run_guest: "`cont`, once and not again where it has succeeded",
  end_guest: "ends its QEMU for certain",
};
const FOLLOWS: Partial<Record<Rule["on"][number], string>> = { failure: "a step fails" };

if (import.meta.main) {
  const parts = { ...makeTables(), counts: describeCounts(exploreAll()) };
  await Deno.writeTextFile(SAFETY_DOC, replaceParts(await Deno.readTextFile(SAFETY_DOC), parts));
}
