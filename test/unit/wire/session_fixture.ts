// What the tests of sessions share: two sessions on a connection in memory, or one session against
// bytes that the test writes itself.

import { FakeTimers } from "./fake_timers.ts";
import { concat, MemoryLink } from "./memory_link.ts";
import {
  decodeFrame,
  decodeHeader,
  encodeFrame,
  encodePreface,
  HEADER_BYTES,
  PREFACE_BYTES,
  putHeader,
  type ShortFrame,
} from "../../../src/wire/frame.ts";
import { Session, type SessionOptions } from "../../../src/wire/session.ts";
import type { WireStream } from "../../../src/wire/stream.ts";

export const never = new AbortController().signal;

/** Two sessions that talk to each other, time standing still. */
export class SessionPair implements AsyncDisposable {
  readonly timers = new FakeTimers();
  readonly links = MemoryLink.pair();
  readonly a: Session;
  readonly b: Session;

  constructor(options: Partial<SessionOptions> = {}) {
    this.a = new Session(this.links[0], { role: "initiator", timers: this.timers, ...options });
    this.b = new Session(this.links[1], { role: "responder", timers: this.timers, ...options });
  }

  /** One stream, as both sides see it. */
  async stream(kind: "control" | "params" | "ram" = "ram"): Promise<[WireStream, WireStream]> {
    return [this.a.openStream(kind), await this.b.acceptStream(kind, never)];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const link of this.links) link.releaseWrites();
    this.a.close();
    this.b.close();
    await Promise.all([this.a.done, this.b.done]);
  }
}

/** A session (the responder) against a peer that is the test itself. */
export class RawPeer implements AsyncDisposable {
  readonly timers = new FakeTimers();
  readonly link: MemoryLink;
  readonly sessionLink: MemoryLink;
  readonly session: Session;

  constructor(options: Partial<SessionOptions> = {}) {
    [this.link, this.sessionLink] = MemoryLink.pair();
    this.session = new Session(this.sessionLink, {
      role: "responder",
      timers: this.timers,
      ...options,
    });
  }

  preface(): Promise<number> {
    return this.link.write(encodePreface());
  }

  send(...frames: (ShortFrame | { type: "data"; stream: number; data: Uint8Array })[]) {
    return this.link.write(concat(frames.map(frameBytes)));
  }

  /** The frames that the session has sent so far. */
  get seen(): SeenFrame[] {
    return parseFrames(this.sessionLink.written);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.sessionLink.releaseWrites();
    this.session.close();
    await this.session.done;
  }
}

export type SeenFrame = ShortFrame | { type: "data"; stream: number; length: number };

export function frameBytes(
  frame: ShortFrame | { type: "data"; stream: number; data: Uint8Array },
): Uint8Array {
  if (frame.type !== "data") return encodeFrame(frame);
  const bytes = new Uint8Array(HEADER_BYTES + frame.data.length);
  putHeader(bytes, 0, { type: "data", stream: frame.stream, length: frame.data.length });
  bytes.set(frame.data, HEADER_BYTES);
  return bytes;
}

/** The whole frames in what one side has written, the preface left out. */
export function parseFrames(bytes: Uint8Array): SeenFrame[] {
  const frames: SeenFrame[] = [];
  let at = PREFACE_BYTES;
  while (at + HEADER_BYTES <= bytes.length) {
    const header = decodeHeader(bytes.subarray(at));
    const begin = at + HEADER_BYTES;
    at = begin + header.length;
    const { type, stream, length } = header;
    if (type === "data") frames.push({ type, stream, length });
    else frames.push(decodeFrame(header, bytes.subarray(begin, at)));
  }
  return frames;
}

export async function readAll(
  stream: { read(buffer: Uint8Array): Promise<number | null> },
): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  const buffer = new Uint8Array(50_000);
  for (let n = await stream.read(buffer); n !== null; n = await stream.read(buffer)) {
    parts.push(buffer.slice(0, n));
  }
  return concat(parts);
}
