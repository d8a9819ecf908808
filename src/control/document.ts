// A document as the whole content of one direction of a stream: what crosses `params`. Knows nothing
// of what is in it. Specification: docs/protocol.md, section 9.

import { AgentError } from "../base/errors.ts";

export const MAX_DOCUMENT_BYTES = 4 * 1024 * 1024;

export interface Document {
  text: string;
  /** SHA-256 of the bytes, lower-case hex. */
  sha256: string;
}

/** Writes `text` and half-closes. Throws `document_too_large` before anything was written. */
export async function sendDocument(
  stream: { write(chunk: Uint8Array): Promise<number>; closeWrite(): Promise<void> },
  text: string,
): Promise<Document> {
  const bytes = new TextEncoder().encode(text);
  if (bytes.length > MAX_DOCUMENT_BYTES) throw tooLarge();
  for (let at = 0; at < bytes.length;) at += await stream.write(bytes.subarray(at));
  await stream.closeWrite();
  return { text, sha256: await sha256(bytes) };
}

/** Reads up to the peer's end. Throws `document_too_large`, or `bad_document` unless it is UTF-8. */
export async function receiveDocument(
  stream: { read(buffer: Uint8Array): Promise<number | null> },
): Promise<Document> {
  // One buffer that grows: what it costs must not depend on how small the peer makes its pieces.
  let room = new Uint8Array(64 * 1024);
  let size = 0;
  for (;;) {
    if (size === room.length) {
      const bigger = new Uint8Array(Math.min(2 * size, MAX_DOCUMENT_BYTES + 1));
      bigger.set(room);
      room = bigger;
    }
    const count = await stream.read(room.subarray(size));
    if (count === null) break;
    size += count;
    if (size > MAX_DOCUMENT_BYTES) throw tooLarge();
  }
  const bytes = room.subarray(0, size);
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    return { text, sha256: await sha256(bytes) };
  } catch (error) {
    throw new AgentError("bad_document", "The guest's parameters are not UTF-8", {
      kind: "refused",
      cause: error,
    });
  }
}

function tooLarge(): AgentError {
  return new AgentError(
    "document_too_large",
    `The guest's parameters are larger than ${MAX_DOCUMENT_BYTES / 2 ** 20} MiB`,
    { kind: "refused" },
  );
}

async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return hash.toHex();
}
