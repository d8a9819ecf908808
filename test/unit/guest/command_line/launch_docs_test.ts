// docs/launch.md against the code: one row for every option of the table, and no other.

import { assertEquals } from "@std/assert";
import { OPTION_SECTIONS } from "../../../../src/guest/command_line/option_table.ts";

const DOCS = Deno.readTextFileSync(new URL("../../../../docs/launch.md", import.meta.url));

Deno.test("docs/launch.md lists every option with what becomes of it", () => {
  const start = DOCS.indexOf("\n## Every option\n");
  const end = DOCS.indexOf("\n## ", start + 1);
  const section = DOCS.slice(start, end);
  const documented = section.split("\n").filter((line) => /^(### |\| `)/.test(line));
  const expected = OPTION_SECTIONS.flatMap(({ title, rows }) => [
    `### ${title}`,
    ...rows.map(({ name, treatment, why }) => `| \`-${name}\` | ${treatment} | ${why} |`),
  ]);
  assertEquals(documented, expected);
});
