// xl's migration stream, as the other host sends it. What comes out must not depend on how it is cut,
// is the beginning of what went in, and has the messages of the handover in one piece each.

import { AgentError } from "../../../src/base/errors.ts";
import { PERMISSION } from "../../../src/xen/conversation.ts";
import { MigrationStream } from "../../../src/xen/stream/migration_stream.ts";
import { fromParts, XEN } from "../corpus.ts";
import { join, mutateBytes } from "../mutate_bytes.ts";
import type { Random } from "../random.ts";
import { PIECES } from "../scripted_link.ts";
import { holds, type Target } from "../target.ts";

const STREAMS = [XEN.sender, XEN.sender_debug].map((parts) =>
  parts.map((part) => fromParts([part]))
);
const PARTS = STREAMS.flat();
/** Heads, where there is something to be read. */
const SMALL = PARTS.filter(({ length }) => length < 64);
const LARGEST_CHUNK = PIECES.at(-1)!;

/** The first byte says in which pieces the stream comes. */
export const XEN_TARGET: Target<Uint8Array> = {
  name: "xen",
  share: 5,
  make(random) {
    const parts = random.pick(STREAMS).slice();
    for (let i = random.few(4) - 1; i > 0; i--) mutateParts(random, parts);
    // The smallest are slow with a stream that has pages in it.
    const how = random.oneIn(20) ? random.below(3) : 3 + random.below(PIECES.length - 4);
    return join(Uint8Array.of(how), ...parts);
  },
  run(input) {
    const bytes = input.subarray(1);
    const fast = feed(bytes, LARGEST_CHUNK);
    const slow = feed(bytes, PIECES[(input[0] ?? 0) % PIECES.length]!);
    holds(
      slow.error?.message === fast.error?.message,
      () => `${slow.error?.message} in pieces, ${fast.error?.message} at once`,
    );
    holds(
      fast.error !== null || slow.count === fast.count,
      () => `${slow.count} bytes in pieces, ${fast.count} at once`,
    );
    holds(slow.messages === fast.messages || fast.error !== null, () => "other messages in pieces");
    if (fast.error) throw fast.error;
  },
};

function mutateParts(random: Random, parts: Uint8Array[]): void {
  if (parts.length === 0) parts.push(random.pick(PARTS));
  const at = random.below(parts.length);
  switch (random.below(5)) {
    case 0:
      parts.splice(at, 1);
      break;
    case 1:
      parts.splice(at, 0, random.pick(PARTS));
      break;
    case 2: { // a record that may be ignored
      const length = random.below(40);
      const record = new Uint8Array(8 + Math.ceil(length / 8) * 8);
      const view = new DataView(record.buffer);
      view.setUint32(0, 0x80000000 + random.below(3), true);
      view.setUint32(4, length, true);
      parts.splice(at, 0, record);
      break;
    }
    case 3:
      parts.length = at;
      break;
    default:
      parts[at] = mutateBytes(random, { bytes: parts[at]!.slice(0, 4096), donors: SMALL });
  }
}

function feed(
  bytes: Uint8Array,
  size: number,
): { count: number; messages: string; error: AgentError | null } {
  const stream = new MigrationStream();
  let count = 0;
  let messages = "";
  try {
    for (let at = 0; at < bytes.length; at += size) {
      for (const piece of stream.feed(bytes.subarray(at, at + size))) {
        const expected = bytes.subarray(count, count + piece.bytes.length);
        holds(equal(piece.bytes, expected), () => `other bytes than came in, at ${count}`);
        if (piece.kind === "end") holds(equal(piece.bytes, new Uint8Array(8)), () => "another END");
        if (piece.kind === "permission") {
          holds(equal(piece.bytes, PERMISSION), () => "another permission");
        }
        count += piece.bytes.length;
        if (piece.kind !== "data") messages += `${piece.kind} at ${count} `;
      }
    }
    holds(/^(header at \d+ (end at \d+ (permission at \d+ )?)?)?$/.test(messages), () => messages);
    stream.checkEnded();
    return { count, messages, error: null };
  } catch (error) {
    if (!(error instanceof AgentError)) throw error;
    return { count, messages, error };
  }
}

function equal(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}
