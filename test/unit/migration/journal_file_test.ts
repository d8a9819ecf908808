import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import { formatRecord } from "../../../src/migration/journal_record.ts";
import { listJournals, readJournal, writeJournal } from "../../../src/migration/journal_file.ts";
import { StateFolder } from "../../../src/migration/state_folder.ts";
import { requires } from "../../lib/requires.ts";
import { newJournal, record, TestFolder } from "./journal_fixture.ts";

const NAME = "m1.source.json";

Deno.test("a journal is its user's alone, under its name, with nothing beside it", async () => {
  await using folder = await TestFolder.create();
  await writeJournal(folder.state.path, record());
  assertEquals(await folder.names(), [NAME]);
  assertEquals(((await Deno.stat(folder.file(NAME))).mode ?? 0) & 0o777, 0o600);
  assertEquals(((await Deno.stat(folder.state.path)).mode ?? 0) & 0o777, 0o700);
  const path = folder.file(NAME);
  assertEquals(await folder.state.list(), [{ path, record: record() }]);
  assertEquals(await readJournal(folder.file("m2.source.json")), null);
});

/** What somebody does to a good journal at that path, and what is then said of it. */
const DAMAGES: Record<string, [(path: string) => Promise<void>, RegExp]> = {
  "cut off": [(path) => Deno.truncate(path, 100), /^is damaged: not JSON$/],
  "empty": [(path) => Deno.truncate(path, 0), /^is damaged: not JSON$/],
  "not UTF-8": [
    (path) => Deno.writeFile(path, Uint8Array.of(0x22, 0xff, 0x22)),
    /^is damaged: not UTF-8$/,
  ],
  "foreign": [(path) => Deno.writeTextFile(path, "{}"), /^is no journal of migrate-agent$/],
  "too large": [(path) => Deno.truncate(path, 2 ** 20 + 1), /^is larger than 1048576 bytes$/],
  "writable by its group": [(path) => Deno.chmod(path, 0o620), /^lets others .* \(mode 0620\)$/],
  "writable by all": [(path) => Deno.chmod(path, 0o602), /^lets others .* \(mode 0602\)$/],
  "a link": [
    async (path) => {
      await Deno.rename(path, `${path}.real`);
      await Deno.symlink(`${path}.real`, path);
    },
    /^is a symbolic link$/,
  ],
  "a folder": [
    async (path) => {
      await Deno.remove(path);
      await Deno.mkdir(path);
    },
    /^is not a regular file$/,
  ],
  "a pipe": [
    async (path) => {
      await Deno.remove(path);
      await new Deno.Command("mkfifo", { args: [path] }).output();
    },
    /^is not a regular file$/,
  ],
  "of another migration": [
    (path) => Deno.writeTextFile(path, formatRecord(record({ migration_id: "m2" }))),
    /^holds what belongs into 'm2.source.json'$/,
  ],
  "of the other side": [
    (path) =>
      Deno.writeTextFile(path, formatRecord(record({ side: "destination", state: "accepted" }))),
    /^holds what belongs into 'm1.destination.json'$/,
  ],
};

for (const [what, [damage, expected]] of Object.entries(DAMAGES)) {
  Deno.test(`reported and not trusted: a journal that is ${what}`, async () => {
    await using folder = await TestFolder.create();
    await writeJournal(folder.state.path, record());
    await damage(folder.file(NAME));
    const [entry, ...others] = await folder.state.list();
    assertEquals(others, []);
    assert(entry && "problem" in entry, JSON.stringify(entry));
    assertMatch(entry.problem, expected);
    // Nobody knows what it claims; nobody overwrites it.
    for (const id of ["m1", "m9"]) {
      const start = newJournal({ migration_id: id });
      const error = await assertRejects(() => folder.state.begin(start), AgentError);
      assertEquals([error.code, error.kind], ["journal_damaged", "refused"]);
    }
  });
}

Deno.test({
  name: "reported and not trusted: a journal of another user",
  ...requires("root"),
  fn: async () => {
    await using folder = await TestFolder.create();
    await writeJournal(folder.state.path, record());
    await Deno.chown(folder.file(NAME), 65534, 65534);
    const [entry] = await folder.state.list();
    const problem = "belongs to user 65534, not to this user";
    assertEquals(entry, { path: folder.file(NAME), problem });
  },
});

Deno.test("what is not named like a journal is reported and stops nobody", async () => {
  await using folder = await TestFolder.create();
  await Deno.writeTextFile(folder.file("notes.json"), "{}");
  await Deno.writeTextFile(folder.file("m1.source.log"), "");
  const [entry, ...others] = await folder.state.list();
  assertEquals(entry, {
    path: folder.file("notes.json"),
    problem: "is no journal of migrate-agent",
  });
  assertEquals(others, []);
  await folder.state.begin(newJournal());
});

Deno.test({
  name: "a full disk is told, and the old journal is whole",
  ...requires("root", "mount", "umount"),
  fn: async () => {
    await using folder = await TestFolder.create();
    const path = await Deno.realPath(await Deno.makeTempDir({ dir: folder.temp.path }));
    const run = async (program: string, ...args: string[]) => {
      const { success, stderr } = await new Deno.Command(program, { args }).output();
      assert(success, new TextDecoder().decode(stderr));
    };
    await run("mount", "-t", "tmpfs", "-o", "size=64k,mode=0700", "tmpfs", path);
    try {
      const state = await StateFolder.open(path);
      const journal = await state.begin(newJournal());
      await assertRejects(
        () => Deno.writeFile(`${path}/filler`, new Uint8Array(65536)),
        Error,
        "No space left",
      );
      const before = await listJournals(path);
      const error = await assertRejects(() => journal.update({ phase: "ram" }), AgentError);
      assertEquals(error.code, "journal_not_written");
      assertMatch(error.message, /^Cannot write the journal '.*m1\.source\.json': No space left/);
      assertEquals(await listJournals(path), before);
      assertEquals(journal.record.phase, "params");
      const names = (await Array.fromAsync(Deno.readDir(path))).map(({ name }) => name).sort();
      assertEquals(names, [".lock", "filler", "m1.source.json"]);
      await Deno.remove(`${path}/filler`);
      await journal.update({ phase: "ram" });
      assertEquals(await listJournals(path), [{ path: journal.path, record: journal.record }]);
    } finally {
      await run("umount", path);
    }
  },
});
