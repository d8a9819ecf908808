import { assertEquals, assertThrows } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import { type AcceptedSecret, SecretBook } from "../../../src/link/secrets.ts";
import { SECRET } from "./fixture.ts";

function makeSecret(changes: Partial<AcceptedSecret> = {}): AcceptedSecret {
  return { secret: SECRET, migrationId: "m", expiresAtMs: 5000, once: true, ...changes };
}

function claimCode(book: SecretBook, candidate = book.candidates()[0]!): string {
  try {
    book.claim(candidate);
    return "ok";
  } catch (error) {
    if (error instanceof AgentError) return error.code;
    throw error;
  }
}

Deno.test("a secret is good once, or until it expires, or until it is withdrawn", () => {
  let nowMs = 4999;
  const once = new SecretBook(() => nowMs);
  once.add(makeSecret());
  assertEquals([claimCode(once), claimCode(once)], ["ok", "secret_used"]);

  const often = new SecretBook(() => nowMs);
  const withdraw = often.add(makeSecret({ once: false }));
  assertEquals([claimCode(often), claimCode(often)], ["ok", "ok"]);
  nowMs = 5000;
  assertEquals(claimCode(often), "secret_expired");
  const candidate = often.candidates()[0]!;
  withdraw();
  assertEquals(often.candidates(), []);
  assertEquals(claimCode(often, candidate), "secret_withdrawn");
});

Deno.test("the number of secrets is bounded; what is of no more use makes room first", () => {
  let nowMs = 0;
  const book = new SecretBook(() => nowMs);
  for (let i = 0; i < 256; i++) book.add(makeSecret({ migrationId: `m-${i}` }));
  const error = assertThrows(() => book.add(makeSecret()), AgentError);
  assertEquals([error.code, error.kind], ["too_many_secrets", "refused"]);
  book.claim(book.candidates()[7]!);
  book.add(makeSecret({ migrationId: "new" }));
  const ids = () => book.candidates().map((c) => c.migrationId);
  assertEquals([ids().length, ids().includes("m-7"), ids().includes("new")], [256, false, true]);
  nowMs = 5000;
  book.add(makeSecret({ migrationId: "newer", expiresAtMs: 9000 }));
  assertEquals([ids().length, ids().includes("m-0")], [256, false]);
});

Deno.test("nonces are remembered, and not for ever", () => {
  const book = new SecretBook();
  const nonce = (n: number) => Uint8Array.of(n >> 8, n & 255);
  assertEquals([book.seen(nonce(0)), book.seen(nonce(0))], [false, true]);
  for (let n = 1; n <= 4096; n++) book.seen(nonce(n));
  assertEquals([book.seen(nonce(4096)), book.seen(nonce(0))], [true, false]);
});
