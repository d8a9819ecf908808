// Control messages: one message through the codec and the schema of its body, and the conversation of
// a channel.

import * as v from "valibot";
import { AgentError } from "../../../src/base/errors.ts";
import { ControlChannel, type Handlers } from "../../../src/control/channel.ts";
import { receiveDocument } from "../../../src/control/document.ts";
import { decodeMessage, encodeMessage } from "../../../src/control/message_codec.ts";
import {
  type NotificationName,
  NOTIFICATIONS,
  type RequestName,
  REQUESTS,
} from "../../../src/control/messages.ts";
import { MESSAGES, PARAMS } from "../corpus.ts";
import { join, mutateBytes } from "../mutate_bytes.ts";
import { type Json, mutateJson } from "../mutate_json.ts";
import type { Random } from "../random.ts";
import { PIECES, ScriptedLink } from "../scripted_link.ts";
import { holds, type Target } from "../target.ts";

const REFUSAL = {
  code: "disk_full",
  kind: "refused",
  phase: "params",
  side: "destination",
  message: "Not enough room in '/dst': 5 bytes needed, 3 free",
  hint: null,
};
const SEEDS: readonly Json[] = [
  ...MESSAGES,
  { id: 4, error: REFUSAL },
  { notify: "cancel", body: { reason: "interrupted" } },
  { notify: "failed", body: REFUSAL },
  { notify: "warning", body: { code: "medium_left_out", text: "medium '/src/cd.iso' left out" } },
];
const encoder = new TextEncoder();
const SEED_BYTES = SEEDS.map((seed) => encoder.encode(JSON.stringify(seed)));

export const MESSAGE_TARGET: Target<Uint8Array> = {
  name: "message",
  share: 200,
  make: makeMessage,
  run(bytes) {
    const message = decodeMessage(bytes);
    const again = decodeMessage(encodeMessage(message).subarray(4));
    const [before, after] = [JSON.stringify(message), JSON.stringify(again)];
    holds(before === after, () => `${before} was written back as ${after}`);
    const schema = schemaOf(message);
    const body = schema && v.safeParse(schema, "body" in message ? message.body : undefined);
    if (!body?.success) return;
    const text = JSON.stringify(body.output);
    const twice = JSON.stringify(v.parse(schema!, JSON.parse(text)));
    holds(text === twice, () => `the body ${text} became ${twice}`);
  },
};

function makeMessage(random: Random): Uint8Array {
  if (random.oneIn(4)) {
    return mutateBytes(random, { bytes: random.pick(SEED_BYTES), donors: SEED_BYTES });
  }
  if (random.oneIn(500)) return encoder.encode(random.pick(["[", '{"a":', '"']).repeat(30_000));
  return encoder.encode(JSON.stringify(mutateJson(random, random.pick(SEEDS), SEEDS)));
}

function schemaOf(message: ReturnType<typeof decodeMessage>): v.GenericSchema | undefined {
  const own = <T extends object>(table: T, name: string): T[keyof T] | undefined =>
    Object.hasOwn(table, name) ? table[name as keyof T] : undefined;
  if ("request" in message) return own(REQUESTS, message.request)?.body;
  if ("reply" in message) return own(REQUESTS, message.reply)?.reply;
  return "notify" in message ? own(NOTIFICATIONS, message.notify as NotificationName) : undefined;
}

/** The first byte says which side this is and how the bytes come; the rest is the peer's. */
export const CHANNEL_TARGET: Target<Uint8Array> = {
  name: "channel",
  share: 20,
  make(random) {
    const source = random.oneIn(2);
    const parts: Uint8Array[] = [];
    for (const seed of source ? MESSAGES.slice(7) : MESSAGES.slice(0, 7)) {
      if (random.oneIn(8)) parts.push(unit(random, makeMessage(random)));
      if (!random.oneIn(8)) parts.push(unit(random, encoder.encode(JSON.stringify(seed))));
    }
    const how = random.below(PIECES.length) * 2 + (source ? 1 : 0);
    const bytes = join(...parts);
    const changed = random.oneIn(4)
      ? mutateBytes(random, { bytes, donors: SEED_BYTES, rounds: 2 })
      : bytes;
    return join(Uint8Array.of(how), changed);
  },
  async run(bytes) {
    const how = bytes[0] ?? 0;
    const stream = new ScriptedLink(bytes.subarray(1), PIECES[(how >> 1) % PIECES.length]!);
    const channel = new ControlChannel(stream, {
      side: how % 2 ? "source" : "destination",
      handlers: HANDLERS,
      onNotification: () => {},
    });
    const ended = new Promise((resolve) =>
      channel.signal.addEventListener("abort", resolve, { once: true })
    );
    const asked = how % 2 ? askEverything(channel) : [];
    await ended;
    for (const outcome of await Promise.allSettled(asked)) {
      if (outcome.status === "rejected") judgeAnswer(outcome.reason);
    }
    const reason: unknown = channel.signal.reason;
    if (!(reason instanceof AgentError) || reason.code !== "control_closed") throw reason;
  },
};

function unit(random: Random, json: Uint8Array): Uint8Array {
  const head = new Uint8Array(4);
  const length = random.oneIn(60) ? random.bits() : json.length;
  new DataView(head.buffer).setUint32(0, length);
  return join(head, json);
}

/** A refusal's kind is the peer's word, also "internal". */
function judgeAnswer(error: unknown): void {
  if (!(error instanceof AgentError)) throw error;
}

const never = new AbortController().signal;
const BODIES = Object.fromEntries(
  (MESSAGES as { request?: string; body: Json }[]).flatMap(({ request, body }) =>
    request === undefined ? [] : [[request, body]]
  ),
);

/** In the order of the recorded replies, so that their ids fit. */
function askEverything(channel: ControlChannel): Promise<unknown>[] {
  return (Object.keys(REQUESTS) as RequestName[]).map((name) =>
    channel.request(name, BODIES[name] as never, never)
  );
}

/** Answers that fit no schema on purpose would be ours to fix: these are the recorded ones. */
const HANDLERS = Object.fromEntries(
  (MESSAGES as { reply?: string; body: Json }[]).flatMap(({ reply, body }) =>
    reply === undefined ? [] : [[reply, () => Promise.resolve(body)]]
  ),
) as unknown as Handlers;

const DOCUMENTS = PARAMS.map((params) => encoder.encode(JSON.stringify(params)));

/** The params document as bytes of its stream; the first byte says how they come. */
export const DOCUMENT_TARGET: Target<Uint8Array> = {
  name: "document",
  share: 10,
  make(random) {
    const bytes = mutateBytes(random, { bytes: random.pick(DOCUMENTS), donors: DOCUMENTS });
    return join(Uint8Array.of(random.below(PIECES.length)), bytes);
  },
  async run(bytes) {
    const pieceBytes = Math.max(PIECES[(bytes[0] ?? 0) % PIECES.length]!, 11);
    const sent = bytes.subarray(1);
    const { text } = await receiveDocument(new ScriptedLink(sent, pieceBytes));
    const again = encoder.encode(text);
    const lost = sent[0] === 0xef ? 3 : 0; // a byte order mark is no part of the text
    holds(again.length === sent.length || again.length === sent.length - lost, () => "other text");
  },
};
