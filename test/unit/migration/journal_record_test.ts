import { assert, assertEquals, assertThrows } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import type { Remain } from "../../../src/base/remains.ts";
import {
  checkRecord,
  formatRecord,
  type JournalRecord,
} from "../../../src/migration/journal_record.ts";
import { record, SELF } from "./journal_fixture.ts";

const REMAINS: Remain[] = [
  { kind: "file", path: "/d/a.raw", dev: 1, ino: 2 },
  { kind: "folder", path: "/run/web" },
  { kind: "process", what: "qemu-nbd", process: SELF },
  { kind: "pid_file", path: "/run/web/qemu.pid" },
  {
    kind: "source_qemu",
    qmp: "/run/web/qmp.sock",
    process: SELF,
    should_run: true,
    settings: {
      capabilities: [{ capability: "events", state: false }],
      parameters: { "downtime-limit": 300 },
    },
  },
];

Deno.test("a record is the same when it was written and read, and people can read it", () => {
  const before = record({ remains: REMAINS, claims: ["disk:/d/a.raw"], guest_process: SELF });
  const text = formatRecord(before);
  assertEquals(checkRecord(JSON.parse(text)), before);
  assert(text.split("\n").length > 40 && text.includes('\n  "state": "owning",\n'));
});

const WRONG: Record<string, [unknown, string]> = {
  "no object": [[], "is no journal of migrate-agent"],
  "another format": [{ ...record(), format: "libvirt" }, "is no journal of migrate-agent"],
  "a newer version": [
    { ...record(), version: 2, state: "levitating" },
    "has version 2, from a newer migrate-agent: this one knows version 1",
  ],
  "an older version": [{ ...record(), version: 0 }, "is damaged: wrong 'version', 1 expected"],
  "a field too many": [{ ...record(), extra: 1 }, "is damaged: wrong 'extra', never expected"],
  "a state of the other side": [
    record({ state: "preparing" }),
    "is damaged: a state of the other side",
  ],
  "an id that leaves the folder": [
    record({ migration_id: "../x" }),
    "is damaged: wrong 'migration_id', /^[A-Za-z0-9_-]{1,64}$/ expected",
  ],
  "an unknown remain": [
    { ...record(), remains: [{ kind: "bomb" }] },
    "is damaged: wrong 'remains.0.kind', " +
    '("file" | "folder" | "process" | "pid_file" | "source_qemu" | "xen_source" | "xen_domain") ' +
    "expected",
  ],
  "a path that is none": [record({ qmp: "qmp.sock" }), `is damaged: wrong 'qmp', "/" expected`],
};

for (const [what, [value, problem]] of Object.entries(WRONG)) {
  Deno.test(`refused: ${what}`, () => assertEquals(checkRecord(value), { problem }));
}

Deno.test("every field is needed", () => {
  for (const name of Object.keys(record()) as (keyof JournalRecord)[]) {
    const { [name]: _, ...rest } = record();
    assert("problem" in checkRecord(rest), name);
  }
});

Deno.test("what is wrong with a secret does not tell it", () => {
  const checked = checkRecord(record({ peer: "x".repeat(2000) }));
  assert("problem" in checked && !checked.problem.includes("deadbeef"), JSON.stringify(checked));
});

Deno.test("what could not be read again is not written", () => {
  const error = assertThrows(() => formatRecord(record({ state: "running" })), AgentError);
  assertEquals([error.code, error.kind], ["bad_journal", "internal"]);
});
