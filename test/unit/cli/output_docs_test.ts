// docs/output.md against the code: every line of `--json`, every field with its type, every exit
// code, and examples that the schemas accept. The schemas in turn do not compile when they differ
// from the event types.

import { assertEquals, assertThrows } from "@std/assert";
import * as v from "valibot";
import {
  BODY_FIELDS,
  HEAD_FIELDS,
  LINE_SCHEMAS,
  LineSchema,
  PART_SCHEMAS,
  SINGLE_FIELDS,
} from "../../lib/event_schema.ts";
import { EXIT_CODES } from "../../../src/cli/exit_codes.ts";

const DOCS = Deno.readTextFileSync(new URL("../../../docs/output.md", import.meta.url));

/** Name of a field to its type as the docs write it. */
type FieldTable = Record<string, string>;

function sectionOf(heading: string): string {
  const start = DOCS.indexOf(`\n${heading}\n`);
  if (start < 0) throw new Error(`docs/output.md has no section "${heading}"`);
  const rest = DOCS.slice(start + heading.length + 2);
  const end = rest.search(/^#{2,3} /m);
  return end < 0 ? rest : rest.slice(0, end);
}

function rowsOf(section: string): string[][] {
  return section.split("\n").filter((line) => line.startsWith("| ")).slice(2)
    .map((line) => line.split("|").slice(1, -1).map((cell) => cell.trim()));
}

function documentedFields(section: string): FieldTable {
  return Object.fromEntries(
    rowsOf(section).map(([name, type, meaning]) => {
      if (!meaning) throw new Error(`field ${name} has no meaning in docs/output.md`);
      return [name!.replaceAll("`", ""), type!];
    }),
  );
}

function fieldTable(fields: v.ObjectEntries): FieldTable {
  return Object.fromEntries(
    Object.entries(fields).map(([name, schema]) => [name, describeType(schema)]),
  );
}

function describeType(schema: unknown): string {
  // Valibot's schemas describe themselves by these fields; only those used here are known.
  const s = schema as {
    type: string;
    pipe?: { type: string }[];
    wrapped?: unknown;
    item?: unknown;
    options?: string[];
    entries?: v.ObjectEntries;
  };
  const piped = (type: string) => s.pipe?.some((step) => step.type === type) ?? false;
  switch (s.type) {
    case "string":
      return piped("iso_timestamp") ? "time" : "text";
    case "number":
      return piped("safe_integer") ? "integer" : "number";
    case "boolean":
      return "boolean";
    case "picklist":
      return s.options!.map((option) => `\`${option}\``).join(", ");
    case "nullable": {
      const inner = describeType(s.wrapped);
      return inner.includes(",") ? `${inner}, or null` : `${inner} or null`;
    }
    case "array": {
      const inner = describeType(s.item);
      return `list of ${inner}${inner.endsWith("account") ? "s" : ""}`;
    }
    case "strict_object":
      if (schema === PART_SCHEMAS.disk_account) return "disk account";
      if (schema === PART_SCHEMAS.error_account) return "error account";
      if (schema === PART_SCHEMAS.migration_account) return "migration account";
      return `{${Object.keys(s.entries!).map((key) => `\`${key}\``).join(", ")}}`;
  }
  throw new Error(`no words for a schema of type '${s.type}'`);
}

function withoutType(fields: v.ObjectEntries): v.ObjectEntries {
  return Object.fromEntries(Object.entries(fields).filter(([name]) => name !== "type"));
}

function exampleOf(section: string): unknown {
  const blocks = [...section.matchAll(/^```json\n([^\n]*)\n```$/gm)];
  assertEquals(blocks.length, 1, "one example on one line");
  return JSON.parse(blocks[0]![1]!);
}

Deno.test("docs/output.md has a section for every type of line, and no other", () => {
  const headings = [...DOCS.matchAll(/^### `(\w+)`$/gm)].map((match) => match[1]!);
  assertEquals(headings.toSorted(), Object.keys(LINE_SCHEMAS).toSorted());
});

Deno.test("docs/output.md lists the fields that every event carries", () => {
  assertEquals(documentedFields(sectionOf("## Every event")), {
    type: "text",
    ...fieldTable(HEAD_FIELDS),
  });
});

for (const [type, fields] of Object.entries({ ...BODY_FIELDS, ...SINGLE_FIELDS })) {
  Deno.test(`docs/output.md lists the fields of '${type}' with their types`, () => {
    assertEquals(
      documentedFields(sectionOf(`### \`${type}\``)),
      fieldTable(withoutType(fields)),
    );
  });

  Deno.test(`the example of '${type}' in docs/output.md is what the schema accepts`, () => {
    const example = exampleOf(sectionOf(`### \`${type}\``));
    assertEquals(v.parse(LineSchema, example).type as string, type);
    // The schema is strict: what it does not know makes it fail, so that the above means something.
    assertThrows(() => v.parse(LineSchema, { ...example as object, unheard_of: 1 }), v.ValiError);
  });
}

Deno.test("docs/output.md lists the parts of the lines", () => {
  assertEquals(
    documentedFields(sectionOf("### Disk account")),
    fieldTable(PART_SCHEMAS.disk_account.entries),
  );
  assertEquals(
    documentedFields(sectionOf("### Error account")),
    fieldTable(PART_SCHEMAS.error_account.entries),
  );
  assertEquals(
    documentedFields(sectionOf("### Migration account")),
    fieldTable(PART_SCHEMAS.migration_account.entries),
  );
});

Deno.test("docs/output.md lists the exit codes as they are", () => {
  assertEquals(
    rowsOf(sectionOf("## Exit codes")),
    EXIT_CODES.map((row) => [String(row.code), row.name, row.kind ?? "", row.meaning]),
  );
});
