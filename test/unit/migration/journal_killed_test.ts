import { assertEquals } from "@std/assert";
import { writeJournal } from "../../../src/migration/journal_file.ts";
import { StateFolder } from "../../../src/migration/state_folder.ts";
import { record, TestFolder } from "./journal_fixture.ts";

const MODULE = new URL("../../../src/migration/journal_file.ts", import.meta.url).href;
const CONFIG = new URL("../../../deno.json", import.meta.url).pathname;

Deno.test("an agent that is killed before the new journal has the name leaves the old one", async () => {
  await using folder = await TestFolder.create();
  await writeJournal(folder.state.path, record());
  const script = `
    import { writeJournal } from ${JSON.stringify(MODULE)};
    Deno.rename = () => { console.log("written"); return new Promise(() => {}); };
    setInterval(() => {}, 1000);
    const [folder, record] = Deno.args;
    await writeJournal(folder, JSON.parse(record));`;
  await Deno.writeTextFile(folder.temp.file("writer.ts"), script);
  const record2 = JSON.stringify(record({ state: "kept" }));
  const args = ["run", "-A", "--config", CONFIG, folder.temp.file("writer.ts")];
  const child = new Deno.Command(Deno.execPath(), {
    args: [...args, folder.state.path, record2],
    stdout: "piped",
  }).spawn();
  const reader = child.stdout.getReader();
  assertEquals(new TextDecoder().decode((await reader.read()).value), "written\n");

  const expected = [{ path: folder.file("m1.source.json"), record: record() }];
  const isNew = (name: string) => name.endsWith(".new");
  // While it lives, nobody takes its file away.
  assertEquals(await (await StateFolder.open(folder.state.path)).list(), expected);
  assertEquals((await folder.names()).filter(isNew).length, 1);

  child.kill("SIGKILL");
  await child.status;
  await reader.cancel();
  assertEquals((await folder.names()).filter(isNew).length, 1);
  assertEquals(await (await StateFolder.open(folder.state.path)).list(), expected);
  assertEquals(await folder.names(), ["m1.source.json"]);
});
