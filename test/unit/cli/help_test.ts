import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { COMMANDS, SHOWN_COMMANDS } from "../../../src/cli/command_table.ts";
import { helpText, versionText } from "../../../src/cli/help.ts";
import { nearest } from "../../../src/cli/nearest.ts";

Deno.test("help names every command, option and example and fits 100 columns", () => {
  const overview = helpText(null);
  assert(!overview.includes("xen-pipe"), "a command for programs alone");
  for (const command of SHOWN_COMMANDS) {
    assertStringIncludes(overview, `  ${command.name} `);
    const text = helpText(command.name);
    for (const { name, hidden } of command.options) {
      assertEquals(text.includes(`--${name} `) || text.includes(`--${name}\n`), !hidden, name);
    }
    for (const example of command.examples) {
      assertStringIncludes(text, example.task);
      assertStringIncludes(text.replace(/ \\\n +/g, " "), example.line);
    }
    for (const line of (overview + text).split("\n")) assert(line.length <= 100, line);
    assert(text.endsWith("\n") && !text.endsWith("\n\n"));
  }
});

Deno.test("--version tells the three versions", () => {
  assertEquals(
    versionText({ program: "1.2.3", deno: "2.7.11", protocol: 4 }),
    "migrate-agent 1.2.3\nDeno 2.7.11\nprotocol 4\n",
  );
});

Deno.test("table: names and letters are unique, references exist", () => {
  for (const { options } of COMMANDS) {
    const names: readonly string[] = options.map((option) => option.name);
    const shorts = options.flatMap((option) => option.short ?? []);
    assertEquals(new Set(names).size, names.length);
    assertEquals(new Set(shorts).size, shorts.length);
    for (const option of options) {
      for (const name of [...option.excludes ?? [], ...option.needs ?? []]) {
        assert(names.includes(name) && name !== option.name, `${option.name}: ${name}`);
      }
    }
  }
});

Deno.test("nearest: slips of the fingers, not wild guesses", () => {
  const known = ["listen", "disk", "disks", "json"];
  assertEquals(nearest("lsiten", known), "listen");
  assertEquals(nearest("LISTEN", known), "listen");
  assertEquals(nearest("lis", known), "listen");
  assertEquals(nearest("diks", known), "disk");
  assertEquals(nearest("jsno", known), "json");
  assertEquals(nearest("bandwidth", known), null);
  assertEquals(nearest("x", known), null);
});
