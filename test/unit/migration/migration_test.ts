import { assert, assertEquals, assertRejects, assertStrictEquals } from "@std/assert";
import { abortable } from "../../../src/base/deadline.ts";
import { AgentError } from "../../../src/base/errors.ts";
import type { AgentEvent } from "../../../src/migration/events.ts";
import { Migration } from "../../../src/migration/migration.ts";
import { type PhaseName, phaseOf, PHASES, RFC_STEPS } from "../../../src/migration/phases.ts";

function makeMigration() {
  const events: AgentEvent[] = [];
  const cancel = new AbortController();
  const migration = new Migration({
    side: "source",
    emit: (event) => events.push(event),
    cancel: cancel.signal,
  });
  return { migration, events, cancel };
}

/** Work that ends only with its signal. */
const untilAborted = (signal: AbortSignal) => abortable(new Promise<never>(() => {}), signal);

/** Runs `work` with another time limit for a phase than the table's. */
async function withLimit<T>(phase: PhaseName, ms: number, work: () => Promise<T>): Promise<T> {
  const row = phaseOf(phase) as { limitMs: number | null };
  const before = row.limitMs;
  row.limitMs = ms;
  try {
    return await work();
  } finally {
    row.limitMs = before;
  }
}

Deno.test("the table: each name once, one point of no return, steps in the order of the phases", () => {
  const names = PHASES.map(({ name }) => name);
  assertEquals(new Set(names).size, names.length);
  const cancellable = PHASES.map((phase) => phase.cancellable);
  assertEquals(cancellable, cancellable.toSorted((a, b) => Number(b) - Number(a)));
  for (const phase of PHASES) {
    const before = phase.cancellable;
    assertEquals(phase.owner, before ? "source" : "destination_once_accepted", phase.name);
  }
  assertEquals(RFC_STEPS.map(({ step }) => step), [1, 2, 3, 4, 5, 6, 7]);
  const places = RFC_STEPS.map(({ phase }) => names.indexOf(phase));
  assertEquals(places, places.toSorted((a, b) => a - b));
});

Deno.test("phases run in the table's order, are told and timed; some may be left out", async () => {
  const { migration, events } = makeMigration();
  for (const { name } of PHASES.filter((phase) => !phase.storageOnly)) {
    assertEquals(await migration.runPhase(name, () => Promise.resolve(name)), name);
    assertEquals(migration.phase, name);
  }
  const told = events.filter(({ type }) => type === "phase").map(({ phase }) => phase);
  assertEquals(told, ["preflight", "params", "ram", "switchover", "handover", "end"]);
  assertEquals(migration.durations.map(({ phase }) => phase), told as PhaseName[]);
});

for (const [first, second] of [["ram", "mirror"], ["params", "params"]] as const) {
  Deno.test(`'${second}' cannot follow '${first}'`, async () => {
    const { migration } = makeMigration();
    await migration.runPhase(first, () => Promise.resolve());
    let ran = false;
    const running = migration.runPhase(second, () => {
      ran = true;
      return Promise.resolve();
    });
    assertEquals((await assertRejects(() => running, AgentError)).code, "phase_order");
    assert(!ran);
    assertEquals(migration.phase, first);
  });
}

Deno.test("what a phase throws carries the phase and the side, and ends the migration", async () => {
  const { migration } = makeMigration();
  const thrown = new AgentError("disk_full", "No room");
  const running = migration.runPhase("params", () => Promise.reject(thrown));
  assertStrictEquals(await assertRejects(() => running, AgentError), thrown);
  assertEquals([thrown.phase, thrown.side], ["params", "source"]);
  assertStrictEquals(migration.signal.reason, thrown);
});

Deno.test("a phase that takes too long is ended, and says so", async () => {
  const { migration } = makeMigration();
  const running = withLimit("params", 1, () => migration.runPhase("params", untilAborted));
  const error = await assertRejects(() => running, AgentError, "longer than 0.001 s");
  assertEquals([error.code, error.kind, error.phase], ["phase_timeout", "timeout", "params"]);
});

Deno.test("phases without a limit of their own end with the migration only", async () => {
  const { migration } = makeMigration();
  await migration.runPhase("mirror", (signal) => {
    assert(!signal.aborted);
    return Promise.resolve();
  });
}); // a timer left behind would be found

Deno.test("cancel: the phase ends with the reason, whatever its work throws then", async () => {
  const { migration, cancel } = makeMigration();
  const reason = new AgentError("cancelled", "Ctrl-C", { kind: "cancelled" });
  const running = migration.runPhase("mirror", async (signal) => {
    cancel.abort(reason);
    await untilAborted(signal).catch(() => {});
    throw new Error("a consequence");
  });
  assertStrictEquals(await assertRejects(() => running, AgentError), reason);
  assertEquals([reason.phase, reason.side], ["mirror", "source"]);
});

Deno.test("cancel: no later phase that can be cancelled begins its work for long", async () => {
  const { migration, cancel } = makeMigration();
  cancel.abort(new AgentError("cancelled", "Ctrl-C", { kind: "cancelled" }));
  const running = migration.runPhase("ram", untilAborted);
  assertEquals((await assertRejects(() => running, AgentError)).code, "cancelled");
});

for (const { name } of PHASES.filter((phase) => !phase.cancellable)) {
  Deno.test(`the phase '${name}' goes on when the migration is cancelled or fails`, async () => {
    const { migration, cancel } = makeMigration();
    const done = await migration.runPhase(name, async (signal) => {
      cancel.abort(new Error("too late"));
      migration.fail(new Error("too late"));
      await Promise.resolve();
      assert(!signal.aborted);
      return "done";
    });
    assertEquals(done, "done");
  });

  Deno.test(`the phase '${name}' still has its time limit, and keeps its own errors`, async () => {
    const { migration } = makeMigration();
    const running = withLimit(name, 1, () => migration.runPhase(name, untilAborted));
    assertEquals((await assertRejects(() => running, AgentError)).kind, "timeout");
    const failing = makeMigration();
    failing.cancel.abort(new Error("cancelled"));
    const own = failing.migration.runPhase(name, () => Promise.reject(new AgentError("own", "m")));
    assertEquals((await assertRejects(() => own, AgentError)).code, "own");
  });
}

Deno.test("the first failure wins; later ones are consequences", async () => {
  const { migration } = makeMigration();
  const first = new AgentError("first", "m");
  const running = migration.runPhase("ram", (signal) => {
    migration.guard(Promise.reject(first));
    migration.guard(Promise.reject(new AgentError("second", "m")));
    return untilAborted(signal);
  });
  assertStrictEquals(await assertRejects(() => running, AgentError), first);
  migration.fail(new Error("third"));
  assertStrictEquals(migration.signal.reason, first);
  assertEquals(first.phase, "ram");
});

Deno.test("failWith: now or later, with the signal's reason", () => {
  const early = makeMigration();
  const reason = new AgentError("lost", "m");
  early.migration.failWith(AbortSignal.abort(reason));
  assertStrictEquals(early.migration.signal.reason, reason);
  const late = makeMigration();
  const controller = new AbortController();
  late.migration.failWith(controller.signal);
  assert(!late.migration.signal.aborted);
  controller.abort(reason);
  assertStrictEquals(late.migration.signal.reason, reason);
});

Deno.test("every event has its head; a step is the RFC's sentence", async () => {
  const { migration, events } = makeMigration();
  migration.report({ type: "warning", code: "c", text: "early" });
  migration.id = "m-1";
  await migration.runPhase("mirror", () => Promise.resolve(migration.step(3)));
  const [early, , step] = events;
  assertEquals([early?.phase, early?.migration_id, early?.side], [null, null, "source"]);
  assertEquals([step?.phase, step?.migration_id], ["mirror", "m-1"]);
  assert(step?.type === "step");
  assertEquals(step.text, "mirrors started");
  assertEquals(new Date(step.time).toISOString(), step.time);
});
