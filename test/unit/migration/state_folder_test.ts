import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import type { Remain } from "../../../src/base/remains.ts";
import {
  claimOfDisk,
  claimOfGuest,
  claimOfQemu,
  claimOfQmp,
} from "../../../src/migration/claims.ts";
import type { Journal } from "../../../src/migration/journal.ts";
import type { NewJournal } from "../../../src/migration/journal_record.ts";
import { StateFolder } from "../../../src/migration/state_folder.ts";
import { TempDir } from "../../lib/temp.ts";
import { codeAndHint, DEAD, newJournal, SELF, TestFolder } from "./journal_fixture.ts";

const QEMU = claimOfQemu({ ...SELF, pid: 77 });
const DISK = claimOfDisk("/d/a.raw");
const REMAIN: Remain = { kind: "file", path: "/d/a.raw", dev: 1, ino: 2 };

async function refusal(work: () => Promise<unknown>): Promise<string> {
  const error = await assertRejects(work, AgentError);
  return codeAndHint(error);
}

Deno.test("a folder that others may change is refused", async () => {
  await using temp = await TempDir.create();
  await Deno.chmod(temp.path, 0o777);
  const said = await refusal(() => StateFolder.open(temp.path));
  assertMatch(said, /^refused state_folder_unusable: .*others may write to it \| .*--state-dir/);
});

Deno.test("a file in the place of the folder is refused", async () => {
  await using temp = await TempDir.create();
  await Deno.writeTextFile(temp.file("state"), "");
  const said = await refusal(() => StateFolder.open(temp.file("state")));
  assertMatch(said, /^refused state_folder_unusable: Cannot use the state folder '/);
});

Deno.test("two senders for one guest: the second is refused, with what to do", async () => {
  await using folder = await TestFolder.create();
  await folder.state.begin(newJournal({ claims: [QEMU] }));
  const second = newJournal({ migration_id: "m2", claims: [claimOfQmp("/q"), QEMU] });
  assertEquals(
    await refusal(() => folder.state.begin(second)),
    "refused in_use: Migration m1 of guest 'web' already has the guest's QEMU (process 77) " +
      `(source, state owning, process ${Deno.pid}) | ` +
      "Wait for its end, or stop it: migrate-agent cancel m1",
  );
  assertEquals(await folder.state.find("m2"), []);
});

Deno.test("a dead agent's claims hold until they are resolved", async () => {
  await using folder = await TestFolder.create();
  await folder.state.begin(newJournal({ claims: [QEMU], agent: DEAD }));
  const second = newJournal({ migration_id: "m2", claims: [QEMU] });
  const said = await refusal(() => folder.state.begin(second));
  assertMatch(said, /its agent has ended\) \| Put it in order first: migrate-agent resolve m1$/);
});

/** Whether the claims of a journal like that hold. */
const HOLDING: [Partial<NewJournal>, boolean][] = [
  [{ state: "owning", agent: null }, true],
  [{ state: "handover_sent", agent: DEAD }, true],
  [{ state: "handed_over" }, false],
  [{ state: "handed_over", agent: DEAD, remains: [REMAIN] }, true],
  [{ state: "kept" }, false],
  [{ side: "destination", state: "preparing", agent: DEAD }, true],
  [{ side: "destination", state: "accepted", agent: DEAD }, true],
  [{ side: "destination", state: "running" }, true],
  [{ side: "destination", state: "running", agent: null }, false],
  [{ side: "destination", state: "running", agent: DEAD }, false],
  [{ side: "destination", state: "running", agent: DEAD, remains: [REMAIN] }, false],
  [{ side: "destination", state: "never_ran" }, false],
  [{ side: "destination", state: "never_ran", remains: [REMAIN] }, true],
  [{ side: "destination", state: "ended" }, false],
];

for (const [change, holds] of HOLDING) {
  const agent = change.agent === undefined ? "lives" : change.agent === null ? "left" : "is dead";
  const rest = change.remains ? "something" : "nothing";
  const effect = holds ? "hold" : "are void";
  Deno.test(`${change.state}, agent ${agent}, ${rest} remains: claims ${effect}`, async () => {
    await using folder = await TestFolder.create();
    await folder.state.begin(newJournal({ claims: [DISK], ...change }));
    const second = () => folder.state.begin(newJournal({ migration_id: "m2", claims: [DISK] }));
    if (holds) assertMatch(await refusal(second), /in_use.*the disk '\/d\/a.raw'/);
    else await second();
  });
}

Deno.test("of many that begin at once, each by its own handle, one gets the guest", async () => {
  await using folder = await TestFolder.create();
  const begun: Journal[] = [];
  const refused: string[] = [];
  await Promise.all(Array.from({ length: 8 }, async (_, i) => {
    const state = await StateFolder.open(folder.state.path);
    const claims = [claimOfGuest("/run/web")];
    await state.begin(newJournal({ migration_id: `m${i}`, side: "destination", claims }))
      .then((journal) => begun.push(journal), (error) => refused.push(codeAndHint(error)));
  }));
  assertEquals([begun.length, refused.length], [1, 7]);
  for (const said of refused) assertMatch(said, /in_use.*the guest's folder '\/run\/web'/);
});

Deno.test("both sides of one migration may be on one host, with shared disks", async () => {
  await using folder = await TestFolder.create();
  await folder.state.begin(newJournal({ claims: [DISK] }));
  await folder.state.begin(newJournal({ side: "destination", claims: [DISK] }));
  assertEquals((await folder.state.find("m1")).length, 2);
  assertEquals((await folder.state.find("m")).length, 0);
});

Deno.test("one side of one migration begins once", async () => {
  await using folder = await TestFolder.create();
  await folder.state.begin(newJournal({ state: "kept" }));
  const said = await refusal(() => folder.state.begin(newJournal()));
  assertMatch(said, /^refused in_use: There is a journal of migration m1 for the source already/);
});

Deno.test("a claim that comes later is compared too", async () => {
  await using folder = await TestFolder.create();
  await folder.state.begin(newJournal({ claims: [DISK] }));
  const second = await folder.state.begin(newJournal({ migration_id: "m2" }));
  await second.claim([QEMU]);
  assertMatch(await refusal(() => second.claim([DISK])), /^refused in_use/);
  assertEquals(second.record.claims, [QEMU]);
  await second.claim([QEMU]);
  assertEquals(second.record.claims, [QEMU]);
});

Deno.test("a journal is taken over when its agent is dead, by one", async () => {
  await using folder = await TestFolder.create();
  const socket = folder.state.nextSocketPath();
  await Deno.writeTextFile(socket, "");
  await folder.state.begin(newJournal({ agent: DEAD, control: socket }));
  const take = () =>
    folder.state.takeOver("m1", { side: "source", agent: SELF, agentVersion: "2.0.0" });
  const journal = await take();
  assertEquals(journal.record.agent, SELF);
  assertEquals([journal.record.control, journal.record.agent_version], [null, "2.0.0"]);
  assertEquals((await folder.names()).includes(socket.slice(socket.lastIndexOf("/") + 1)), false);
  assertEquals(
    await refusal(take),
    `refused agent_alive: Process ${Deno.pid} works on migration m1 (source) | ` +
      "To stop it: migrate-agent cancel m1",
  );
  await journal.leave();
  await take();
});

Deno.test("there must be a journal to take over, and a whole one", async () => {
  await using folder = await TestFolder.create();
  const options = { side: "source", agent: SELF, agentVersion: "2.0.0" } as const;
  const take = () => folder.state.takeOver("m1", options);
  assertMatch(await refusal(take), /^refused no_journal: .*'m1' for the source/);
  await Deno.writeTextFile(folder.file("m1.source.json"), "{");
  assertMatch(await refusal(take), /^refused journal_damaged: /);
  assert((await Deno.readTextFile(folder.file("m1.source.json"))) === "{");
});
