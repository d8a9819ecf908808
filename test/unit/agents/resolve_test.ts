// `resolve` in every state of either side, with every word of an operator and every answer of the
// destination, on journals whose agent is dead. No QEMU: what is done in one is shown in test/qemu.

import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { resolve, resolveAbandoned } from "../../../agents/resolve.ts";
import { AgentError, type Side } from "../../../src/base/errors.ts";
import { identifyProcess, isSameProcess } from "../../../src/base/process_identity.ts";
import type { Remain } from "../../../src/base/remains.ts";
import type { JournalRecord, NewJournal } from "../../../src/migration/journal_record.ts";
import { type Answer, STATES } from "../../../src/migration/ownership.ts";
import { DEAD, newJournal, SELF, TestFolder } from "../migration/journal_fixture.ts";

const never = new AbortController().signal;

interface Words {
  keep?: Side | null;
  answer?: Answer | null;
}

function run(folder: TestFolder, { keep = null, answer = null }: Words = {}, id = "m1") {
  return resolve({
    command: "resolve",
    id,
    side: null,
    keep,
    stateDir: folder.state.path,
    json: false,
  }, { ask: () => Promise.resolve(answer), signal: never });
}

async function begin(folder: TestFolder, change: Partial<NewJournal>): Promise<void> {
  await folder.state.begin(newJournal({ agent: DEAD, qmp: null, ...change }));
}

/** The one journal that is left; null when it is gone. */
async function left(folder: TestFolder): Promise<JournalRecord | null> {
  const [entry] = await folder.state.list();
  if (entry === undefined) return null;
  assert("record" in entry);
  return entry.record;
}

type Case = [
  state: JournalRecord["state"],
  keep: Side | null,
  answer: Answer | null,
  end: JournalRecord["state"] | "contradiction" | "undecided",
];

const SOURCE_CASES: Case[] = [
  ["owning", null, null, "kept"],
  ["owning", "source", null, "kept"],
  ["owning", "destination", null, "contradiction"],
  ["handover_sent", null, null, "undecided"],
  ["handover_sent", null, "uncertain", "undecided"],
  ["handover_sent", null, "running", "handed_over"],
  ["handover_sent", null, "never_ran", "kept"],
  ["handover_sent", null, "ended", "kept"],
  ["handover_sent", "source", null, "kept"],
  ["handover_sent", "source", "uncertain", "kept"],
  ["handover_sent", "source", "running", "contradiction"],
  ["handover_sent", "source", "never_ran", "kept"],
  ["handover_sent", "source", "ended", "kept"],
  ["handover_sent", "destination", null, "handed_over"],
  ["handover_sent", "destination", "running", "handed_over"],
  ["handover_sent", "destination", "never_ran", "contradiction"],
  ["handover_sent", "destination", "ended", "contradiction"],
  ["handed_over", null, null, "handed_over"],
  ["handed_over", "source", null, "contradiction"],
  ["handed_over", "destination", null, "handed_over"],
  ["kept", null, null, "kept"],
  ["kept", "source", null, "kept"],
  ["kept", "destination", null, "contradiction"],
];

const DESTINATION_CASES: Case[] = [
  ["preparing", null, null, "never_ran"],
  ["preparing", "source", null, "never_ran"],
  ["preparing", "destination", null, "contradiction"],
  ["accepted", null, null, "undecided"],
  ["accepted", "source", null, "ended"],
  ["accepted", "destination", null, "running"],
  ["running", null, null, "running"],
  ["running", "source", null, "contradiction"],
  ["running", "destination", null, "running"],
  ["never_ran", null, null, "never_ran"],
  ["never_ran", "source", null, "never_ran"],
  ["never_ran", "destination", null, "contradiction"],
  ["ended", null, null, "ended"],
  ["ended", "source", null, "ended"],
  ["ended", "destination", null, "contradiction"],
];

const CASES: [Side, Case[]][] = [["source", SOURCE_CASES], ["destination", DESTINATION_CASES]];

for (const [side, cases] of CASES) {
  Deno.test(`resolve: the cases below name every state of the ${side}, with every word`, () => {
    const words = (state: string) => cases.filter(([s]) => s === state).map(([, keep]) => keep);
    for (const state of Object.keys(STATES[side])) {
      assertEquals(new Set(words(state)), new Set([null, "source", "destination"]), state);
    }
  });

  for (const [state, keep, answer, end] of cases) {
    Deno.test(`resolve: ${side} ${state}, keep ${keep}, answer ${answer}: ${end}`, async () => {
      await using folder = await TestFolder.create();
      await begin(folder, { side, state, phase: "handover" });
      if (end === "contradiction" || end === "undecided") {
        const resolving = run(folder, { keep, answer });
        const error = await assertRejects(() => resolving, AgentError);
        const kind = end === "undecided" ? "uncertain" : "refused";
        assertEquals([error.code, error.kind, error.side], [end, kind, side]);
        assertStringIncludes(error.hint ?? "", "migrate-agent resolve m1");
        const record = await left(folder);
        assertEquals([record?.state, record?.agent], [state, null], "nothing was decided");
      } else {
        const document = await run(folder, { keep, answer });
        assertEquals([document.state_before, document.state], [state, end]);
        const record = await left(folder);
        // The source's is asked for by nobody; the destination's may still be.
        assertEquals(record?.state, side === "source" ? undefined : end);
        assertEquals(record?.agent ?? null, null);
        if (side === "source") return await assertUnknown(folder);
        const again = await run(folder, {});
        assertEquals([again.state, again.done], [end, []], "twice does no harm");
      }
    });
  }
}

async function assertUnknown(folder: TestFolder): Promise<void> {
  const error = await assertRejects(() => run(folder), AgentError);
  assertEquals([error.code, error.kind], ["no_migration", "refused"]);
}

Deno.test("resolve: no tombstone for a migration whose handover cannot be on its way", async () => {
  for (const phase of ["params", "mirror", "ram", "switchover"] as const) {
    await using folder = await TestFolder.create();
    await begin(folder, { side: "destination", phase });
    const { journal } = await run(folder);
    const late = phase === "ram" || phase === "switchover";
    assertEquals(journal !== null, late, phase);
    assertEquals((await left(folder))?.state, late ? "never_ran" : undefined);
  }
});

Deno.test("resolve: a tombstone that an agent has left stays", async () => {
  await using folder = await TestFolder.create();
  await begin(folder, { side: "destination", state: "never_ran", phase: "mirror" });
  await run(folder);
  assertEquals((await left(folder))?.state, "never_ran");
});

/** A process that stands for a guest's QEMU. */
class Stand implements AsyncDisposable {
  readonly #child = new Deno.Command("sleep", { args: ["60"], stdin: "null" }).spawn();
  readonly ended = this.#child.status;

  identify() {
    return identifyProcess(this.#child.pid);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#child.kill("SIGKILL");
    } catch (error) {
      if (!(error instanceof TypeError)) throw error; // Deno knows that it has ended
    }
    await this.ended;
  }
}

Deno.test("resolve: a QEMU is ended only where the guest is the other host's", async () => {
  const ends: [Side, JournalRecord["state"], Words, boolean][] = [
    ["source", "handover_sent", { keep: "destination" }, true],
    ["source", "handover_sent", { answer: "running" }, true],
    ["source", "handed_over", {}, true],
    ["source", "handover_sent", { keep: "source" }, false],
    ["source", "owning", {}, false],
    ["destination", "accepted", { keep: "source" }, true],
    ["destination", "running", {}, false],
    // Somebody else's, unless the journal says that it was taken over (`remains`).
    ["destination", "preparing", {}, false],
  ];
  for (const [side, state, words, ended] of ends) {
    await using folder = await TestFolder.create();
    await using stand = new Stand();
    const guest_process = await stand.identify();
    await begin(folder, { side, state, guest_process });
    await run(folder, words);
    assertEquals(await isSameProcess(guest_process), !ended, `${side} ${state}`);
  }
});

Deno.test("resolve: a destination's QEMU is ended, and then its folder and its images go", async () => {
  await using folder = await TestFolder.create();
  await using stand = new Stand();
  const process = await stand.identify();
  const image = await makeFile(folder.temp.file("a.raw"));
  const run_folder = folder.temp.file("web");
  await Deno.mkdir(run_folder);
  const remains: Remain[] = [
    { kind: "folder", path: run_folder },
    image,
    { kind: "process", what: "the QEMU", process },
  ];
  await begin(folder, { side: "destination", remains });
  const { done } = await run(folder);
  assertEquals(done.length, 3);
  assertEquals(await isSameProcess(process), false);
  assertEquals(await namesOf(folder.temp.path), ["state"]);
});

Deno.test("resolve: the guest's own things stay where it runs, the disks where it may have run", async () => {
  const states: [JournalRecord["state"], Words, string[]][] = [
    ["running", {}, ["a.raw", "state", "web"]],
    ["accepted", { keep: "destination" }, ["a.raw", "state", "web"]],
    ["accepted", { keep: "source" }, ["a.raw", "state"]],
    ["ended", {}, ["a.raw", "state"]],
  ];
  for (const [state, words, names] of states) {
    await using folder = await TestFolder.create();
    const path = folder.temp.file("web");
    const keys = folder.temp.file("keys");
    for (const made of [path, keys]) await Deno.mkdir(made);
    const image = await makeFile(folder.temp.file("a.raw"));
    const remains: Remain[] = [
      { kind: "folder", path },
      image,
      { kind: "pid_file", path: `${path}/qemu.pid` },
      { kind: "folder", path: keys },
    ];
    await begin(folder, { side: "destination", state, remains, qmp: `${path}/qmp.sock` });
    await run(folder, words);
    assertEquals(await namesOf(folder.temp.path), names, state);
    assertEquals((await left(folder))?.remains, []);
  }
});

Deno.test("resolve: what cannot be undone stays in the journal, and is undone the next time", async () => {
  await using folder = await TestFolder.create();
  const path = folder.temp.file("keys");
  await Deno.writeTextFile(path, "in the way");
  await begin(folder, { remains: [{ kind: "folder", path }] });
  const error = await assertRejects(() => run(folder), AgentError);
  assertEquals([error.code, error.kind, error.undoErrors.length], ["leftovers", "failed", 1]);
  assertStringIncludes(error.undoErrors[0]!.message, `remove the folder '${path}'`);
  assertEquals([(await left(folder))?.state, (await left(folder))?.remains.length], ["kept", 1]);
  await Deno.remove(path);
  await Deno.mkdir(path);
  assertEquals((await run(folder)).done, [`removed the folder '${path}'`]);
  assertEquals(await left(folder), null);
});

Deno.test("resolve: as long as a QEMU cannot be put in order nothing is decided", async () => {
  await using folder = await TestFolder.create();
  const image = await makeFile(folder.temp.file("a.raw"));
  const source: Remain = {
    kind: "source_qemu",
    qmp: folder.temp.file("nobody.sock"),
    process: SELF,
    should_run: true,
    settings: null,
  };
  await begin(folder, { remains: [image, source] });
  const error = await assertRejects(() => run(folder), AgentError);
  assertStringIncludes(error.message, "Cannot connect to the QMP socket");
  assertEquals([(await left(folder))?.state, (await left(folder))?.remains.length], ["owning", 2]);
  assertEquals(await namesOf(folder.temp.path), ["a.raw", "state"]);
});

Deno.test("resolve: refused while the agent lives; unknown and damaged ones are told", async () => {
  await using folder = await TestFolder.create();
  await begin(folder, { agent: SELF });
  await begin(folder, { migration_id: "m2", side: "destination" });
  const alive = await assertRejects(() => run(folder), AgentError, String(Deno.pid));
  assertEquals([alive.code, alive.kind], ["agent_alive", "refused"]);
  assertStringIncludes(alive.hint ?? "", "migrate-agent cancel m1");
  const unknown = await assertRejects(() => run(folder, {}, "m3"), AgentError);
  assertStringIncludes(unknown.message, "there are m1, m2");
  await Deno.writeTextFile(folder.file("m2.destination.json"), "{");
  const damaged = await assertRejects(() => run(folder, {}, "m2"), AgentError, "not JSON");
  assertEquals([damaged.code, damaged.kind], ["journal_damaged", "refused"]);
});

Deno.test("resolve: on a host that was both sides one has to be named; each knows the other", async () => {
  await using folder = await TestFolder.create();
  await begin(folder, { side: "source", state: "handover_sent" });
  await begin(folder, { side: "destination", state: "running" });
  const error = await assertRejects(() => run(folder), AgentError);
  assertEquals([error.code, error.kind], ["two_sides", "refused"]);
  const options = {
    command: "resolve" as const,
    id: "m1",
    side: "source" as const,
    stateDir: folder.state.path,
    json: false,
  };
  const around = { ask: () => Promise.resolve(null), signal: never };
  const refused = resolve({ ...options, keep: "source" }, around);
  await assertRejects(() => refused, AgentError, "the destination answers 'running'");
  assertEquals((await resolve({ ...options, keep: null }, around)).state, "handed_over");
});

Deno.test("resolve: the same command again clears what is certain, and only what is in its way", async () => {
  await using folder = await TestFolder.create();
  const claims = ["qemu:7:7"];
  await begin(folder, { claims, state: "handover_sent" });
  await begin(folder, { migration_id: "m2", claims: ["qemu:8:8"] });
  await begin(folder, { migration_id: "m3", side: "destination" });
  const options = { side: "source" as const, signal: never };
  assertEquals(await resolveAbandoned(folder.state, { ...options, claims }), []);
  const resolved = await resolveAbandoned(folder.state, { ...options, claims: ["qemu:8:8"] });
  assertEquals(resolved.map(({ migration_id, state }) => [migration_id, state]), [["m2", "kept"]]);
  assertEquals((await folder.state.list()).length, 2);
});

async function makeFile(path: string): Promise<Extract<Remain, { kind: "file" }>> {
  await Deno.writeTextFile(path, "");
  const { dev, ino } = await Deno.stat(path);
  return { kind: "file", path, dev, ino: ino! };
}

async function namesOf(path: string): Promise<string[]> {
  return (await Array.fromAsync(Deno.readDir(path))).map(({ name }) => name).sort();
}
