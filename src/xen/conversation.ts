// What `xl migrate` and `xl migrate-receive` say to each other around the stream of the domain, in
// both directions: fixed texts, one byte of result. Knows nothing of processes.
// Specification: xl's migration protocol; docs/xen.md, "The conversation".

import { AgentError, quote } from "../base/errors.ts";

const encoder = new TextEncoder();

/** Receiver to sender: it may begin. The only one without a NUL. */
export const BANNER = encoder.encode("xl migration receiver ready, send binary domain data.\n");
/** Receiver to sender: everything has arrived. */
export const READY = encoder.encode("domain received, ready to unpause\0");
/** Sender to receiver: the handover; and back, after a report of failure: the sender may go on. */
export const PERMISSION = encoder.encode("domain is yours, you are cleared to unpause\0");
/** Receiver to sender, followed by one byte: 0 when the domain runs. */
export const REPORT = encoder.encode("my copy unpause results are as follows\0");

export interface ByteSource {
  read(into: Uint8Array): Promise<number | null>;
}
export interface ByteSink {
  write(data: Uint8Array): Promise<number>;
}

/** Reads exactly `count` bytes. @throws AgentError `xl_conversation` when the other end closes first */
export async function readExactly(source: ByteSource, count: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(count);
  for (let at = 0; at < count;) {
    const read = await source.read(bytes.subarray(at));
    if (read === null) {
      throw conversationError(`it ended after ${at} of ${count} bytes of a message`);
    }
    at += read;
  }
  return bytes;
}

/** Reads one of the texts. @throws AgentError `xl_conversation` for anything else */
export async function readMessage(source: ByteSource, expected: Uint8Array): Promise<void> {
  const bytes = await readExactly(source, expected.length);
  if (bytes.every((byte, at) => byte === expected[at])) return;
  const decoder = new TextDecoder();
  throw conversationError(
    `${quote(decoder.decode(expected))} expected, got ${quote(decoder.decode(bytes))}`,
  );
}

export async function writeAll(sink: ByteSink, data: Uint8Array): Promise<void> {
  for (let at = 0; at < data.length;) at += await sink.write(data.subarray(at));
}

export function conversationError(why: string): AgentError {
  return new AgentError("xl_conversation", `The conversation of the two xl went wrong: ${why}`);
}
