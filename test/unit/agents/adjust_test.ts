// `cancel` and `set` against the local socket of an agent that lives, and where there is none; `status`
// of a host with nothing, with a living agent, with files that are not to be trusted.

import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { cancel, set } from "../../../agents/adjust.ts";
import { status } from "../../../agents/status.ts";
import { AgentError, type Side } from "../../../src/base/errors.ts";
import { type LocalHandlers, LocalServer } from "../../../src/control/local_server.ts";
import type { NewJournal } from "../../../src/migration/journal_record.ts";
import { TempDir } from "../../lib/temp.ts";
import { DEAD, newJournal, SELF, TestFolder } from "../migration/journal_fixture.ts";

const never = new AbortController().signal;

/** An agent of this process: its journal and its socket; what it is asked is in `asked`. */
async function startAgent(folder: TestFolder, side: Side, handlers: Partial<LocalHandlers> = {}) {
  const asked: unknown[] = [];
  const note = (what: unknown) => {
    asked.push(what);
    return Promise.resolve({});
  };
  const control = folder.file(`m1.${side}.sock`);
  const server = await LocalServer.listen(control, {
    side,
    handlers: { cancel: note, set: note, status: () => Promise.resolve({}), ...handlers },
  });
  await begin(folder, { side, agent: SELF, control });
  return { asked, [Symbol.asyncDispose]: () => server[Symbol.asyncDispose]() };
}

function begin(folder: TestFolder, change: Partial<NewJournal>) {
  return folder.state.begin(newJournal({ agent: DEAD, qmp: null, ...change }));
}

function words(folder: TestFolder) {
  return { id: "m1", stateDir: folder.state.path };
}

function setOptions(folder: TestFolder) {
  const limits = { diskBandwidth: 0, ramBandwidth: 7, downtimeLimitMs: null };
  return { command: "set" as const, ...words(folder), ...limits };
}

function cancelOptions(folder: TestFolder) {
  return { command: "cancel" as const, ...words(folder) };
}

Deno.test("cancel: asked of the agent of either side; its refusal is told as it is", async () => {
  for (const side of ["source", "destination"] as const) {
    await using folder = await TestFolder.create();
    await using agent = await startAgent(folder, side);
    assertStringIncludes(await cancel(cancelOptions(folder), never), `process ${Deno.pid}`);
    assertEquals(agent.asked, ["Cancelled by 'migrate-agent cancel'"]);
  }
  await using folder = await TestFolder.create();
  const refusal = new AgentError("too_late", "the guest was handed over", { kind: "refused" });
  await using _agent = await startAgent(folder, "source", {
    cancel: () => Promise.reject(refusal),
  });
  const error = await assertRejects(() => cancel(cancelOptions(folder), never), AgentError);
  assertEquals([error.code, error.kind], ["too_late", "refused"]);
});

Deno.test("set: what is given goes to the sender, and to nobody else", async () => {
  await using folder = await TestFolder.create();
  await using agent = await startAgent(folder, "source");
  await set(setOptions(folder), never);
  const limits = { disk_bandwidth: 0, ram_bandwidth: 7, downtime_limit_ms: null };
  assertEquals(agent.asked, [limits]);
  await using other = await TestFolder.create();
  await using receiver = await startAgent(other, "destination");
  const error = await assertRejects(() => set(setOptions(other), never), AgentError);
  assertEquals([error.code, error.kind, receiver.asked], ["not_the_sender", "refused", []]);
  // Where one host is both, the sender's is found.
  await begin(other, { side: "source", agent: SELF, control: other.file("m1.destination.sock") });
  await set(setOptions(other), never);
  assertEquals(receiver.asked, [limits]);
});

Deno.test("cancel: nobody to ask is told with what to do", async () => {
  const cases: [Partial<NewJournal>, string, string][] = [
    [{}, "no_agent", "migrate-agent resolve m1"],
    [{ state: "kept" }, "migration_ended", ""],
    [{ agent: SELF, control: null }, "agent_not_ready", "try again"],
  ];
  for (const [change, code, hint] of cases) {
    await using folder = await TestFolder.create();
    await begin(folder, change);
    const error = await assertRejects(() => cancel(cancelOptions(folder), never), AgentError);
    assertEquals([error.code, error.kind], [code, "refused"]);
    assertStringIncludes(error.hint ?? "", hint);
  }
  await using folder = await TestFolder.create();
  const error = await assertRejects(() => cancel(cancelOptions(folder), never), AgentError);
  assertEquals([error.code, error.kind], ["no_migration", "refused"]);
});

Deno.test("status: makes nothing where nothing is; tells what lives and what is damaged", async () => {
  await using temp = await TempDir.create();
  const none = { command: "status" as const, id: null, json: true, stateDir: temp.file("state") };
  assertEquals((await status(none, never)).migrations, []);
  await assertRejects(() => Deno.stat(none.stateDir), Deno.errors.NotFound);

  await using folder = await TestFolder.create();
  await begin(folder, { agent: SELF });
  await begin(folder, { side: "destination", state: "never_ran", guest_process: DEAD });
  await begin(folder, { migration_id: "m2", guest_process: SELF });
  await Deno.writeTextFile(folder.file("m3.source.json"), "{");
  const options = { ...none, stateDir: folder.state.path };
  const { migrations, damaged } = await status(options, never);
  assertEquals(
    migrations.map((m) => [m.migration_id, m.side, m.agent_pid, m.qemu_pid, m.qemu_alive, m.next]),
    [
      ["m1", "destination", null, DEAD.pid, false, null],
      ["m1", "source", Deno.pid, null, false, null],
      ["m2", "source", null, Deno.pid, true, "migrate-agent resolve m2 --side source"],
    ],
  );
  assertEquals(damaged.map(({ path }) => path), [folder.file("m3.source.json")]);
  assertEquals((await status({ ...options, id: "m2" }, never)).migrations.length, 1);
  const unknown = await assertRejects(() => status({ ...options, id: "m9" }, never), AgentError);
  assert(unknown.message.includes("there are m1, m2"));
});
