// The connection between the two agents with a test in the middle: every frame passes through here,
// named by what it says, and the test decides what becomes of it.

import type { Side } from "../../src/base/errors.ts";
import { decodeMessage, encodeMessage, type Message } from "../../src/control/message_codec.ts";
import type { ByteLink } from "../../src/wire/byte_link.ts";
import {
  decodeFrame,
  decodeHeader,
  HEADER_BYTES,
  PREFACE_BYTES,
  putHeader,
} from "../../src/wire/frame.ts";
import { MemoryLink } from "../unit/wire/memory_link.ts";
import { isClosed } from "./refusal.ts";

/** Nothing that the wire knows. */
const NOISE = new Uint8Array(64).fill(0xff);

/** What becomes of a frame. */
export type WireFate = "pass" | "hold" | "bad frame" | "bad message" | "bad body";

/** Called with every control message and every stream that is opened; nothing else. */
type OnSaid = (from: Side, what: string) => WireFate;

export class WireTap implements Disposable {
  readonly port: number;
  readonly #onSaid: OnSaid;
  readonly #listener: Deno.TcpListener;
  /** The last connection: the one that is up, if one is. */
  #passage: Passage | undefined;

  constructor(onSaid: OnSaid) {
    this.#onSaid = onSaid;
    this.#listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    this.port = this.#listener.addr.port;
  }

  /** The receiver's end of the next connection that a sender makes; null when there will be none. */
  async accept(): Promise<ByteLink | null> {
    let sender: Deno.TcpConn;
    try {
      sender = await this.#listener.accept();
    } catch (error) {
      if (isClosed(error)) return null;
      throw error;
    }
    sender.setNoDelay(true); // messages are small and waited for
    const [near, far] = MemoryLink.pair();
    this.#passage = new Passage(this.#onSaid, { sender, receiver: far });
    return near;
  }

  /** Both agents lose the connection at once. */
  cut(): void {
    this.#passage?.cut();
  }

  /** Bytes that are no frame, as if they came from that side. */
  makeNoise(from: Side): void {
    this.#passage?.makeNoise(from);
  }

  /** No more connections. */
  [Symbol.dispose](): void {
    closeQuietly(this.#listener);
  }
}

/** One connection from end to end. */
class Passage {
  readonly #onSaid: OnSaid;
  readonly #sender: Deno.TcpConn;
  readonly #receiver: MemoryLink;
  readonly #kinds = new Map<number, string>();
  /** The last write of each side's bytes: the next one follows it. */
  readonly #writes = { source: Promise.resolve(), destination: Promise.resolve() };

  constructor(onSaid: OnSaid, ends: { sender: Deno.TcpConn; receiver: MemoryLink }) {
    this.#onSaid = onSaid;
    this.#sender = ends.sender;
    this.#receiver = ends.receiver;
    this.#passAll();
  }

  cut(): void {
    closeQuietly(this.#sender);
    closeQuietly(this.#receiver);
  }

  makeNoise(from: Side): void {
    this.#put(from, from === "source" ? this.#receiver : this.#sender, NOISE);
  }

  /** Passes on whole frames in their order; a connection that is gone takes none. */
  #put(from: Side, to: ByteLink, bytes: Uint8Array): Promise<void> {
    return this.#writes[from] = this.#writes[from].then(async () => {
      try {
        for (let at = 0; at < bytes.length;) at += await to.write(bytes.subarray(at));
      } catch (error) {
        if (!isClosed(error)) throw error;
      }
    });
  }

  async #passAll(): Promise<void> {
    await Promise.all([
      this.#pass("source", this.#sender, this.#receiver),
      this.#pass("destination", this.#receiver, this.#sender),
    ]);
    this.cut();
  }

  async #pass(side: Side, from: ByteLink, to: ByteLink): Promise<void> {
    try {
      const preface = await readFully(from, PREFACE_BYTES);
      if (preface) await this.#put(side, to, preface);
      while (preface) {
        const header = await readFully(from, HEADER_BYTES);
        if (!header) break;
        const payload = await readFully(from, decodeHeader(header).length);
        if (!payload) break;
        const passed = this.#decide(side, header, payload);
        if (passed) await this.#put(side, to, passed);
      }
      await to.closeWrite();
    } catch (error) {
      if (!isClosed(error)) throw error;
    }
  }

  /** The bytes that go on instead of this frame; null for none. */
  #decide(side: Side, headerBytes: Uint8Array, payload: Uint8Array): Uint8Array | null {
    const header = decodeHeader(headerBytes);
    const whole = join(headerBytes, payload);
    let what: string;
    let message: Message | undefined;
    if (header.type === "open") {
      const frame = decodeFrame(header, payload);
      if (frame.type !== "open") return whole;
      this.#kinds.set(header.stream, frame.kind);
      what = `opens ${frame.kind}`;
    } else if (header.type === "data" && this.#kinds.get(header.stream) === "control") {
      message = decodeMessage(payload.subarray(4)); // every message fits into a frame of its own
      what = describe(message);
    } else return whole;
    switch (this.#onSaid(side, what)) {
      case "pass":
        return whole;
      case "hold":
        return null;
      case "bad frame":
        return NOISE;
      case "bad message":
        return join(dataFrame(header.stream, new TextEncoder().encode('\0\0\0\x0a{"what":1}')));
      case "bad body":
        return message
          ? join(dataFrame(header.stream, encodeMessage({ ...message, body: 5 } as Message)))
          : whole;
    }
  }
}

function describe(message: Message): string {
  if ("request" in message) return `asks ${message.request}`;
  if ("reply" in message) return `answers ${message.reply}`;
  if ("notify" in message) return `tells ${message.notify}`;
  return "refuses";
}

function dataFrame(stream: number, payload: Uint8Array): Uint8Array {
  const header = new Uint8Array(HEADER_BYTES);
  putHeader(header, 0, { type: "data", stream, length: payload.length });
  return join(header, payload);
}

function join(...parts: Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

async function readFully(from: ByteLink, count: number): Promise<Uint8Array | null> {
  const bytes = new Uint8Array(count);
  for (let at = 0; at < count;) {
    const more = await from.read(bytes.subarray(at));
    if (more === null) return null;
    at += more;
  }
  return bytes;
}

function closeQuietly(closable: { close(): void }): void {
  try {
    closable.close();
  } catch (error) {
    if (!isClosed(error)) throw error;
  }
}
