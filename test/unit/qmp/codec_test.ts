import { assertEquals, assertRejects } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import { decodeLines, encodeMessage, type QmpMessage } from "../../../src/qmp/codec.ts";
import { seededRandom } from "../wire/memory_link.ts";

const MESSAGES: QmpMessage[] = [
  { QMP: { version: { qemu: { major: 7, minor: 2, micro: 0 } } } },
  { return: { name: "Gäst 🖥" }, id: 1 },
  { event: "STOP", timestamp: { seconds: 1, microseconds: 2 } },
  { error: { class: "GenericError", desc: "a\nb" }, id: 2 },
];

function bytesOf(messages: QmpMessage[]): Uint8Array {
  return new Uint8Array(messages.flatMap((message) => [...encodeMessage(message)]));
}

async function decode(chunks: Uint8Array[]): Promise<QmpMessage[]> {
  return await Array.fromAsync(decodeLines(ReadableStream.from(chunks)));
}

function* splitAt(bytes: Uint8Array, random: () => number): Generator<Uint8Array> {
  for (let at = 0; at < bytes.length;) {
    const end = at + 1 + Math.floor(random() * 20);
    yield bytes.subarray(at, end);
    at = end;
  }
}

Deno.test("a message is one line, whatever is in it", () => {
  const line = new TextDecoder().decode(encodeMessage({ execute: "x", arguments: { a: "\n" } }));
  assertEquals(line, '{"execute":"x","arguments":{"a":"\\n"}}\n');
});

Deno.test("messages arrive one byte at a time", async () => {
  const bytes = bytesOf(MESSAGES);
  assertEquals(await decode([...bytes].map((byte) => Uint8Array.of(byte))), MESSAGES);
});

Deno.test("messages arrive in any pieces", async () => {
  const random = seededRandom(7);
  const bytes = bytesOf(MESSAGES);
  for (let round = 0; round < 50; round++) {
    assertEquals(await decode([...splitAt(bytes, random)]), MESSAGES);
  }
});

Deno.test("QEMU ends its lines with CR LF; empty lines say nothing", async () => {
  const text = new TextEncoder().encode('\r\n{"id":1}\r\n\n  \n{"id":2}\r\n');
  assertEquals(await decode([text]), [{ id: 1 }, { id: 2 }]);
});

Deno.test("what follows the last line's end is no message", async () => {
  assertEquals(await decode([new TextEncoder().encode('{"id":1}\n{"id":')]), [{ id: 1 }]);
});

for (const line of ["hello", '{"id":', "[1]", "null", "7"]) {
  Deno.test(`a line that is no JSON object is refused: ${line}`, async () => {
    const bytes = new TextEncoder().encode(line + "\n");
    const error = await assertRejects(() => decode([bytes]), AgentError);
    assertEquals(error.code, "qmp_bad_message");
  });
}

Deno.test("a line without end is refused before it fills the memory", async () => {
  const megabyte = new Uint8Array(1 << 20).fill(0x61);
  let given = 0;
  const endless = new ReadableStream<Uint8Array>({
    pull(controller) {
      if (++given > 80) controller.close();
      else controller.enqueue(megabyte);
    },
  });
  const decoding = Array.fromAsync(decodeLines(endless));
  assertEquals((await assertRejects(() => decoding, AgentError)).code, "qmp_bad_message");
  assertEquals(given < 70, true, `after ${given} MiB`);
});
