// The fixed texts of xl's migration, against what real ones said.

import { assertEquals, assertRejects } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import {
  BANNER,
  type ByteSource,
  PERMISSION,
  readExactly,
  readMessage,
  READY,
  REPORT,
} from "../../../src/xen/conversation.ts";
import { fromParts, XEN } from "../../fuzz/corpus.ts";

/** Gives `bytes` in pieces of that size. */
function sourceOf(bytes: Uint8Array, size: number): ByteSource {
  let at = 0;
  return {
    read(into) {
      const piece = bytes.subarray(at, at + Math.min(size, into.length));
      into.set(piece);
      at += piece.length;
      return Promise.resolve(piece.length || null);
    },
  };
}

Deno.test("xl's conversation: the receiver's side of a migration that works, and of one that fails", async () => {
  for (const size of [1, 7, 1000]) {
    for (const [parts, status] of [[XEN.receiver, 0], [XEN.receiver_failed, 6]] as const) {
      const source = sourceOf(fromParts(parts), size);
      for (const message of [BANNER, READY, REPORT]) await readMessage(source, message);
      assertEquals(await readExactly(source, 1), Uint8Array.of(status));
      if (status !== 0) await readMessage(source, PERMISSION);
      assertEquals(await source.read(new Uint8Array(1)), null);
    }
  }
});

Deno.test("xl's conversation: another text, and one that is cut off", async () => {
  const bytes = fromParts(XEN.receiver);
  for (
    const wrong of [bytes.subarray(1), bytes.subarray(0, BANNER.length - 1), new Uint8Array(0)]
  ) {
    const error = await assertRejects(() => readMessage(sourceOf(wrong, 9), BANNER), AgentError);
    assertEquals(error.code, "xl_conversation");
  }
});
