import { assert, assertEquals, assertRejects } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import type { Remain } from "../../../src/base/remains.ts";
import { DEAD, newJournal, SELF, TestFolder } from "./journal_fixture.ts";

const FILE: Remain = { kind: "file", path: "/d/a.raw", dev: 1, ino: 2 };
const FOLDER: Remain = { kind: "folder", path: "/run/web" };

Deno.test("what is asked for at once is all written, in order", async () => {
  await using folder = await TestFolder.create();
  const journal = await folder.state.begin(newJournal());
  await Promise.all([
    journal.update({ phase: "mirror" }),
    journal.addRemain(FILE),
    journal.addRemain(FOLDER),
    journal.update({ phase: "ram", note: "on its way" }),
    journal.dropRemain({ ino: 2, dev: 1, path: "/d/a.raw", kind: "file" }),
    journal.addRemain({ ...FOLDER }),
  ]);
  const [entry] = await folder.state.list();
  assert(entry && "record" in entry);
  assertEquals(entry.record, journal.record);
  const { phase, note, remains, state } = journal.record;
  assertEquals({ phase, note, remains, state }, {
    phase: "ram",
    note: "on its way",
    remains: [FOLDER],
    state: "owning",
  });
  assert(journal.record.updated_at >= journal.record.started_at);
});

Deno.test("what cannot be written changes nothing, and does not stop what follows", async () => {
  await using folder = await TestFolder.create();
  const journal = await folder.state.begin(newJournal());
  const before = journal.record;
  await Deno.rename(folder.state.path, folder.temp.file("away"));
  const lost = journal.update({ state: "handover_sent" });
  const error = await assertRejects(() => lost, AgentError);
  assertEquals([error.code, error.kind], ["journal_not_written", "failed"]);
  assertEquals(journal.record, before);
  await Deno.rename(folder.temp.file("away"), folder.state.path);
  await journal.update({ phase: "switchover" });
  assertEquals([journal.record.state, journal.record.phase], ["owning", "switchover"]);
});

Deno.test("whoever leaves a journal leaves it without an agent", async () => {
  await using folder = await TestFolder.create();
  const journal = await folder.state.begin(newJournal({ control: "/s/m1.source.sock" }));
  await journal.leave();
  assertEquals([journal.record.agent, journal.record.control], [null, null]);
});

Deno.test("a journal that was removed stays away", async () => {
  await using folder = await TestFolder.create();
  const journal = await folder.state.begin(newJournal({ agent: DEAD }));
  await journal.remove();
  assertEquals(await folder.state.list(), []);
  const error = await assertRejects(() => journal.update({ agent: SELF }), AgentError);
  assertEquals(error.code, "journal_removed");
  assertEquals(await folder.names(), [".lock"]);
});
