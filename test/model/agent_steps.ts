// What both agents of the model have in common: a rule of the table becomes steps, between any two of
// which the agent may be killed or its host lose power.

import type { Side } from "../../src/base/errors.ts";
import { type Rule, ruleFor } from "../../src/migration/ownership.ts";
import type { Setting, Step, World } from "./world.ts";

/** What the table says that happens now; null when the event is refused. */
export function findRule<S extends Side>(
  world: World,
  { side, event, setting }: { side: S; event: Rule<S>["on"][number]; setting: Setting },
): Rule<S> | null {
  const forgetful = side === "destination" && world.destination.agent === "serving" &&
    event === "ask" && setting.broken.has("answer_from_memory");
  const state = (forgetful ? "preparing" : world[side].journal) as Rule<S>["state"];
  const { copiedDisks, rules } = setting;
  const rule = ruleFor(side, state, { event, copiedDisks, rules });
  setting.used?.add(rule as Rule);
  return rule.refused === undefined ? rule : null;
}

/** `rule` in the order in which `carryOut` does it. `settled` are done when the journal is durable. */
export function stepsOf(rule: Rule, setting: Setting, settled: readonly Step[] = []): Step[] {
  const answer = rule.answer === undefined ? [] : [`answer ${rule.answer}`];
  const write = rule.next === undefined
    ? []
    : [`write ${rule.next}`, ...(setting.broken.has("no_fsync") ? [] : ["sync"])];
  return [
    ...(rule.first ?? []),
    ...(rule.answerFirst ? answer : []),
    ...write,
    ...(rule.after ?? []),
    ...settled,
    ...(rule.answerFirst ? [] : answer),
    ...(rule.followedBy === undefined ? [] : [`event ${rule.followedBy}`]),
  ];
}

/** `write running` -> ["write", "running"]. */
export function split(step: Step): [string, string] {
  const [verb = "", object = ""] = step.split(" ");
  return [verb, object];
}
