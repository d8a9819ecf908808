// Control messages as bytes: a length, then JSON of bounded size and depth. Knows the four forms of
// a message and nothing of their bodies. Specification: docs/protocol.md, section 6.

import * as v from "valibot";
import { AgentError } from "../base/errors.ts";
import { ErrorSchema } from "./messages.ts";

export const MAX_MESSAGE_BYTES = 256 * 1024;
export const MAX_DEPTH = 16;
const LENGTH_BYTES = 4;

const id = v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(2 ** 31 - 1));
const name = v.pipe(v.string(), v.maxLength(64));

const RequestForm = v.object({ id, request: name, body: v.unknown() });
const ReplyForm = v.object({ id, reply: name, body: v.unknown() });
const RefusalForm = v.object({ id, error: ErrorSchema });
const NotificationForm = v.object({ notify: name, body: v.unknown() });
const MessageForm = v.union([RequestForm, ReplyForm, RefusalForm, NotificationForm]);

/** A message whose body has not been checked yet. */
export type Message = v.InferOutput<typeof MessageForm>;

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The peer sent what is no message. */
export function badMessage(text: string): AgentError {
  return new AgentError("bad_message", `The other agent sent a message that is wrong: ${text}`, {
    kind: "link",
    hint: "Check that both sides run the same version of migrate-agent.",
  });
}

/** Length and JSON of a message. Throws `message_too_large` (internal) for one that is. */
export function encodeMessage(message: Message): Uint8Array {
  const json = encoder.encode(JSON.stringify(message));
  if (json.length > MAX_MESSAGE_BYTES) {
    throw new AgentError(
      "message_too_large",
      `Cannot send a control message of ${json.length} bytes: at most ${MAX_MESSAGE_BYTES} fit`,
      { kind: "internal" },
    );
  }
  const unit = new Uint8Array(LENGTH_BYTES + json.length);
  new DataView(unit.buffer).setUint32(0, json.length);
  unit.set(json, LENGTH_BYTES);
  return unit;
}

/** The message that the JSON of a unit is; throws `bad_message`. */
export function decodeMessage(json: Uint8Array): Message {
  let value: unknown;
  try {
    const text = decoder.decode(json);
    checkDepth(text);
    value = JSON.parse(text);
  } catch (error) {
    if (error instanceof AgentError) throw error;
    throw badMessage(error instanceof TypeError ? "not UTF-8" : "not JSON");
  }
  const result = v.safeParse(MessageForm, value);
  if (!result.success) throw badMessage("neither request, reply, refusal nor notification");
  return result.output;
}

/** The JSON of the next unit; null when the stream ended before it. Throws `bad_message`. */
export async function readUnit(
  stream: { read(buffer: Uint8Array): Promise<number | null> },
): Promise<Uint8Array | null> {
  const prefix = new Uint8Array(LENGTH_BYTES);
  const got = await readFull(stream, prefix);
  if (got === 0) return null;
  if (got < LENGTH_BYTES) throw badMessage("the stream ended within its length");
  const length = new DataView(prefix.buffer).getUint32(0);
  if (length < 2 || length > MAX_MESSAGE_BYTES) {
    throw badMessage(`${length} bytes long, 2 to ${MAX_MESSAGE_BYTES} are allowed`);
  }
  const json = new Uint8Array(length);
  if (await readFull(stream, json) < length) throw badMessage("the stream ended within it");
  return json;
}

/** Fills `buffer`; gives fewer bytes only at the stream's end. */
async function readFull(
  stream: { read(buffer: Uint8Array): Promise<number | null> },
  buffer: Uint8Array,
): Promise<number> {
  let count = 0;
  while (count < buffer.length) {
    const more = await stream.read(buffer.subarray(count));
    if (more === null) break;
    count += more;
  }
  return count;
}

/** Throws unless `json` is nested at most MAX_DEPTH deep: before the parser recurses into it. */
function checkDepth(json: string): void {
  let depth = 0;
  let inString = false;
  for (let i = 0; i < json.length; i++) {
    const c = json.charCodeAt(i);
    if (inString) {
      if (c === 0x5c) i++; // a backslash: what it escapes cannot end the string
      else if (c === 0x22) inString = false;
    } else if (c === 0x22) inString = true;
    else if (c === 0x7b || c === 0x5b) {
      if (++depth > MAX_DEPTH) throw badMessage(`nested more than ${MAX_DEPTH} deep`);
    } else if (c === 0x7d || c === 0x5d) depth--;
  }
}
