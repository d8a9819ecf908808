import { assertEquals, assertRejects } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import {
  MAX_DOCUMENT_BYTES,
  receiveDocument,
  sendDocument,
} from "../../../src/control/document.ts";
import { MemoryLink } from "../wire/memory_link.ts";

Deno.test("a document arrives with the hash that its sender sees", async () => {
  const [a, b] = MemoryLink.pair();
  b.readLimit = () => 1;
  const sent = await sendDocument(a, '{"name":"grün"}');
  assertEquals(await receiveDocument(b), sent);
  assertEquals(sent.sha256.length, 64);
  const [c, d] = MemoryLink.pair();
  await sendDocument(c, "hello");
  const { sha256 } = await receiveDocument(d);
  assertEquals(sha256, "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824");
});

Deno.test("a document too large is neither sent nor read to its end", async () => {
  const [a, b] = MemoryLink.pair();
  const text = "x".repeat(MAX_DOCUMENT_BYTES + 1);
  const refused = await assertRejects(() => sendDocument(a, text), AgentError);
  assertEquals([refused.code, a.written.length], ["document_too_large", 0]);
  await a.write(new Uint8Array(MAX_DOCUMENT_BYTES + 1)); // and no end
  assertEquals(
    (await assertRejects(() => receiveDocument(b), AgentError)).code,
    "document_too_large",
  );
});

Deno.test("a document that is not UTF-8 is refused", async () => {
  const [a, b] = MemoryLink.pair();
  await a.write(Uint8Array.of(0xc3));
  await a.closeWrite();
  assertEquals((await assertRejects(() => receiveDocument(b), AgentError)).code, "bad_document");
});
