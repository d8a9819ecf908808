import { assertEquals } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import { ERROR_KINDS, type ErrorKind } from "../../../src/base/errors.ts";
import { Account, accountOfError } from "../../../src/migration/account.ts";
import type { AccountEvent } from "../../../src/migration/events.ts";
import { Migration } from "../../../src/migration/migration.ts";

const OUTCOMES: Record<ErrorKind, AccountEvent["outcome"]> = {
  usage: "refused",
  refused: "refused",
  failed: "failed",
  cancelled: "cancelled",
  link: "failed",
  timeout: "failed",
  uncertain: "uncertain",
  internal: "failed",
};

function makeMigration(): Migration {
  return new Migration({
    side: "source",
    emit: () => {},
    cancel: new AbortController().signal,
  });
}

Deno.test("the outcome of every kind of error", () => {
  for (const kind of ERROR_KINDS) {
    const account = new Account();
    account.error = new AgentError("code", "message", { kind });
    assertEquals(account.finish(makeMigration()).outcome, OUTCOMES[kind], kind);
  }
});

Deno.test("without an error it is completed; the guest is the source's until it is said not to be", () => {
  const { outcome, owner, running, error, downtime_ms: downtimeMs } = new Account().finish(
    makeMigration(),
  );
  assertEquals([outcome, owner, running, error, downtimeMs], [
    "completed",
    "source",
    true,
    null,
    null,
  ]);
});

Deno.test("durations, figures and disks as they stand at the end, in whole milliseconds", async () => {
  const migration = makeMigration();
  await migration.runPhase("preflight", () => Promise.resolve());
  const account = new Account();
  account.downtimeMs = 12.7;
  account.disks.push({
    name: "a",
    action: "mirror",
    virtual_size_bytes: 10,
    copied_bytes: 0,
    flattened: false,
    path: "/d/a",
  });
  account.noteCopied("a", 10);
  account.noteCopied("unknown", 5);
  const event = account.finish(migration);
  assertEquals(event.downtime_ms, 13);
  assertEquals(event.disks.map((disk) => disk.copied_bytes), [10]);
  assertEquals(event.phases.map(({ phase }) => phase), ["preflight"]);
  assertEquals(Number.isInteger(event.total_ms), true);
});

Deno.test("an error in the account: everything named, what failed while undoing attached", () => {
  const error = new AgentError("disk_full", "No room", {
    kind: "refused",
    side: "destination",
    phase: "preflight",
    hint: "make room",
  });
  error.undoErrors.push(new AgentError("undo_failed", "Cannot remove 'x': busy"));
  assertEquals(accountOfError(error), {
    code: "disk_full",
    kind: "refused",
    message: "No room",
    hint: "make room",
    side: "destination",
    phase: "preflight",
    undo: ["Cannot remove 'x': busy"],
  });
  const bare = accountOfError(new AgentError("c", "m"));
  assertEquals([bare.hint, bare.side, bare.phase, bare.undo], [null, null, null, []]);
});
