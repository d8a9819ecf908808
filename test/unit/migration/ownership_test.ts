import { assertEquals, assertThrows } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import {
  carryOut,
  COMMON_EVENTS,
  eventOfAnswer,
  isSettled,
  mayBeAskedIn,
  mayRun,
  type Rule,
  ruleFor,
  RULES,
  STATES,
} from "../../../src/migration/ownership.ts";
import { PHASES } from "../../../src/migration/phases.ts";

for (const side of ["source", "destination"] as const) {
  const rules: readonly Rule[] = RULES[side];
  const states = Object.keys(STATES[side]);

  Deno.test(`on the ${side} every state has one rule for whatever may happen to either side`, () => {
    for (const state of states) {
      for (const event of Object.keys(COMMON_EVENTS)) {
        const found = rules.filter((rule) =>
          rule.state === state && rule.on.some((on) => on === event)
        );
        assertEquals(found.length, 1, `'${event}' in '${state}'`);
      }
    }
  });

  Deno.test(`on the ${side} no event has two rules, and a settled state never changes`, () => {
    const seen = new Set<string>();
    for (const { state, on, disks, next } of rules) {
      const { settled } = Object.entries(STATES[side]).find(([name]) => name === state)![1];
      assertEquals(settled && next !== undefined, false, state);
      for (const event of on) {
        for (const which of disks ? [disks] : ["copied", "shared"]) {
          const key = `${state} ${event} ${which}`;
          assertEquals(seen.has(key), false, key);
          seen.add(key);
        }
      }
    }
  });
}

Deno.test("a rule is found by its state, its event and the kind of disks", () => {
  const cutOff = (copiedDisks: boolean) =>
    ruleFor("destination", "accepted", { event: "cont_cut_off", copiedDisks }).next;
  assertEquals(cutOff(true), "ended");
  assertEquals(cutOff(false), undefined);
  const error = assertThrows(
    () => ruleFor("source", "kept", { event: "answer_running", copiedDisks: true }),
    AgentError,
  );
  assertEquals(error.kind, "internal");
});

Deno.test("what is certain comes first, then the journal, then what depends on it", async () => {
  const done: string[] = [];
  const rule: Rule<"source"> = {
    state: "owning",
    on: ["failure"],
    first: ["run_guest"],
    next: "kept",
    after: ["ask"],
  };
  await carryOut(rule, {
    perform: (effect) => Promise.resolve(void done.push(effect)),
    write: (state) => Promise.resolve(void done.push(`write ${state}`)),
  });
  assertEquals(done, ["run_guest", "write kept", "ask"]);
});

Deno.test("a step that fails ends a rule: nothing is written, nothing is done after it", async () => {
  const done: string[] = [];
  const rule = ruleFor("destination", "preparing", { event: "ask", copiedDisks: true });
  const fails = carryOut(rule, {
    perform: () => Promise.reject(new Error("it does not end")),
    write: (state) => Promise.resolve(void done.push(state)),
  });
  assertEquals(await fails.catch((error: Error) => error.message), "it does not end");
  assertEquals(done, []);
});

Deno.test("an answer that leaves it open is none", () => {
  assertEquals(eventOfAnswer("running"), "answer_running");
  assertEquals(eventOfAnswer("never_ran"), "answer_never_ran");
  assertEquals(eventOfAnswer("uncertain"), "no_answer");
  assertEquals(eventOfAnswer(null), "no_answer");
});

Deno.test("who may run the guest, and what is settled", () => {
  assertEquals(mayRun("source", "handover_sent"), false);
  assertEquals(mayRun("destination", "accepted"), true);
  assertEquals(isSettled("destination", "accepted"), false);
  assertEquals(isSettled("source", "handed_over"), true);
});

Deno.test("a destination may be asked from the phase on in which it takes the memory", () => {
  const asked = PHASES.map(({ name }) => name).filter(mayBeAskedIn);
  assertEquals(asked, ["ram", "switchover", "handover", "end"]);
  assertEquals(mayBeAskedIn(null), false);
});
