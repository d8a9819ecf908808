import { assertEquals } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import { UndoLedger } from "../../../src/migration/undo.ts";

function record(ledger: UndoLedger, done: string[], what: string) {
  return ledger.add(what, () => {
    done.push(what);
    return Promise.resolve();
  });
}

Deno.test("newest first, each once", async () => {
  const ledger = new UndoLedger();
  const done: string[] = [];
  for (const what of ["a", "b", "c"]) record(ledger, done, what);
  assertEquals(await ledger.rollback(), []);
  assertEquals(await ledger.rollback(), []);
  assertEquals(done, ["c", "b", "a"]);
});

Deno.test("a step that fails hinders no other; what failed is given in the order of the steps", async () => {
  const ledger = new UndoLedger();
  const done: string[] = [];
  record(ledger, done, "a");
  ledger.add("remove 'b'", () => Promise.reject(new Error("busy")));
  record(ledger, done, "c");
  ledger.add("stop d", () => Promise.reject(new AgentError("gone", "no d")));
  const failures = await ledger.rollback();
  assertEquals(done, ["c", "a"]);
  assertEquals(failures.map(({ message }) => message), [
    "Cannot stop d: no d",
    "Cannot remove 'b': busy",
  ]);
  assertEquals(failures.map(({ code }) => code), ["undo_failed", "undo_failed"]);
});

Deno.test("what is forgotten is not undone", async () => {
  const ledger = new UndoLedger();
  const done: string[] = [];
  record(ledger, done, "a");
  record(ledger, done, "b").forget();
  assertEquals(await ledger.rollback(), []);
  assertEquals(done, ["a"]);
  record(ledger, done, "c");
  ledger.forgetAll();
  await ledger.rollback();
  assertEquals(done, ["a"]);
});

Deno.test("a step added while the others are undone is undone as well", async () => {
  const ledger = new UndoLedger();
  const done: string[] = [];
  record(ledger, done, "a");
  ledger.add("b", () => {
    record(ledger, done, "late");
    return Promise.resolve();
  });
  await ledger.rollback();
  assertEquals(done, ["late", "a"]);
});
