// The wire: single frames through the codec, and whole byte streams through a session.

import { AgentError } from "../../../src/base/errors.ts";
import {
  checkPreface,
  decodeFrame,
  decodeHeader,
  encodeFrame,
  HEADER_BYTES,
  PREFACE_BYTES,
} from "../../../src/wire/frame.ts";
import { Session, STREAM_KINDS, type StreamKind } from "../../../src/wire/session.ts";
import { FakeTimers } from "../../unit/wire/fake_timers.ts";
import { FRAMES } from "../corpus.ts";
import { join, mutateBytes } from "../mutate_bytes.ts";
import type { Random } from "../random.ts";
import { PIECES, ScriptedLink } from "../scripted_link.ts";
import { holds, type Target } from "../target.ts";

const SENDER = FRAMES.sender.slice(1);
const RECEIVER = FRAMES.receiver.slice(1);
const ALL = [...SENDER, ...RECEIVER];
const PREFACE = FRAMES.sender[0]!;

export const FRAME_TARGET: Target<Uint8Array> = {
  name: "frame",
  share: 300,
  make(random) {
    if (random.oneIn(50)) return mutateBytes(random, { bytes: PREFACE, donors: ALL });
    const bytes = mutateBytes(random, { bytes: random.pick(ALL), donors: ALL });
    if (bytes.length >= HEADER_BYTES && !random.oneIn(4)) {
      new DataView(bytes.buffer).setUint32(8, bytes.length - HEADER_BYTES);
    }
    return bytes;
  },
  run(bytes) {
    if (bytes.length >= PREFACE_BYTES && bytes[0] === PREFACE[0]) checkPreface(bytes);
    if (bytes.length < HEADER_BYTES) return;
    const header = decodeHeader(bytes);
    const end = HEADER_BYTES + header.length;
    if (header.type === "data" || end > bytes.length) return;
    const frame = decodeFrame(header, bytes.subarray(HEADER_BYTES, end));
    const again = encodeFrame(frame).toHex();
    holds(again === bytes.subarray(0, end).toHex(), () => `written back as ${again}`);
  },
};

/** The first byte says which side the session is on and how the bytes come; the rest is the peer's. */
export const SESSION_TARGET: Target<Uint8Array> = {
  name: "session",
  share: 14,
  make(random) {
    const own = random.oneIn(2) ? SENDER : RECEIVER;
    const frames = own.slice();
    for (let i = random.few(6); i > 0; i--) mutateFrames(random, frames);
    const preface = random.oneIn(40)
      ? mutateBytes(random, { bytes: PREFACE, donors: ALL })
      : PREFACE;
    const how = random.below(PIECES.length) * 2 + (own === SENDER ? 0 : 1);
    return join(Uint8Array.of(how), preface, ...frames);
  },
  async run(bytes) {
    const how = bytes[0] ?? 0;
    const peer = bytes.subarray(1);
    const link = new ScriptedLink(peer, PIECES[(how >> 1) % PIECES.length]!);
    const timers = new FakeTimers();
    const session = new Session(link, { role: how % 2 ? "initiator" : "responder", timers });
    const users: Promise<unknown>[] = STREAM_KINDS.map((kind) => useStreams(session, kind));
    if (how % 2) users.push(...[0, 1, 2].map((at) => useOwnStream(session, STREAM_KINDS[at]!)));
    await session.done;
    await Promise.all(users);
    holds(timers.count === 0, () => "timers are left");
    const limit = 4096 + 100 * peer.length;
    holds(
      link.writtenBytes < limit,
      () => `${link.writtenBytes} bytes in answer to ${peer.length}`,
    );
    const reason: unknown = session.signal.reason;
    if (!(reason instanceof AgentError) || reason.code !== "connection_lost") throw reason;
  },
};

function mutateFrames(random: Random, frames: Uint8Array[]): void {
  if (frames.length === 0) frames.push(random.pick(ALL));
  const at = random.below(frames.length);
  switch (random.below(7)) {
    case 0:
      frames.splice(at, 1);
      break;
    case 1:
      frames.splice(at, 0, random.pick(ALL));
      break;
    case 2:
      frames.length = at;
      break;
    case 3:
      frames[at] = mutateBytes(random, { bytes: frames[at]!, donors: ALL });
      break;
    case 4: { // the same frame many times
      const copies = new Array<Uint8Array>(random.oneIn(20) ? 600 : random.below(20));
      frames.splice(at, 0, ...copies.fill(frames[at]!));
      break;
    }
    case 5: { // another stream
      const frame = frames[at]!.slice();
      if (frame.length >= HEADER_BYTES) new DataView(frame.buffer).setUint32(4, random.below(9));
      frames[at] = frame;
      break;
    }
    default: { // many streams
      for (let id = 7 + random.below(8); random.below(12) > 0; id += 2) {
        frames.push(encodeFrame({ type: "open", stream: id, kind: random.pick(STREAM_KINDS) }));
        if (random.oneIn(3)) frames.push(encodeFrame({ type: "end", stream: id }));
      }
    }
  }
}

/** Takes every stream of a kind and talks on it, until the session ends. */
async function useStreams(session: Session, kind: StreamKind): Promise<void> {
  const talks: Promise<void>[] = [];
  try {
    for (;;) {
      const stream = await session.acceptStream(kind, session.signal);
      talks.push(talk(stream));
    }
  } catch (error) {
    await Promise.all(talks);
    expected(error);
  }
}

async function useOwnStream(session: Session, kind: StreamKind): Promise<void> {
  try {
    await talk(session.openStream(kind));
  } catch (error) {
    expected(error);
  }
}

async function talk(stream: ReturnType<Session["openStream"]>): Promise<void> {
  const buffer = new Uint8Array(1024);
  try {
    await stream.write(buffer.subarray(0, 8));
    for (let count = await stream.read(buffer); count !== null;) count = await stream.read(buffer);
    if (stream.id % 5 === 0) stream.reset("not_wanted", "enough");
    else await stream.closeWrite();
  } catch (error) {
    expected(error);
  }
}

function expected(error: unknown): void {
  if (!(error instanceof AgentError) || error.kind === "internal") throw error;
}
