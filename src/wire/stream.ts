// One stream of a session: reading, writing, half-close, reset and its two credits. It has the form
// of a Deno.Conn, so that a relay takes either. How frames get to the connection and in which order
// is the session's business.
// Specification: docs/protocol.md, sections 3 and 4.

import { AgentError, quotePeer } from "../base/errors.ts";
import { ByteRing } from "./byte_ring.ts";
import type { Duplex, PayloadSink } from "./byte_link.ts";
import {
  encodeFrame,
  HEADER_BYTES,
  MAX_PAYLOAD_BYTES,
  protocolError,
  putHeader,
  type ShortFrame,
} from "./frame.ts";

/** What each side may send on a stream before any credit has come. */
export const INITIAL_CREDIT_BYTES = 256 * 1024;
const MAX_CREDIT_BYTES = 2 ** 31 - 1;

/** What a stream needs of its session. */
export interface StreamHost {
  /** Resolves when the kernel has the frame; throws what ended the session. */
  send(frame: Uint8Array): Promise<void>;
  /** Sends ahead of data; its failure ends the session. */
  post(frame: ShortFrame): void;
  /** The stream needs no more frames. */
  forget(stream: WireStream): void;
}

/**
 * A stream. Its waits take no signal: whoever wants to give up calls `reset`, which ends all of
 * them with an AgentError, as does the end of the session.
 */
export class WireStream implements Duplex {
  readonly id: number;
  readonly kind: string;
  readonly #host: StreamHost;
  readonly #windowBytes: number;
  readonly #ring: ByteRing;
  #error: AgentError | undefined;

  #receiveCredit = INITIAL_CREDIT_BYTES;
  #consumedBytes = 0;
  #peerEnded = false;
  #wakeReader: (() => void) | undefined;

  #sendCredit = INITIAL_CREDIT_BYTES;
  #ended = false;
  #wakeWriter: (() => void) | undefined;
  /** The last write or closeWrite: the next one follows it. */
  #lastWrite: Promise<unknown> = Promise.resolve();

  constructor(id: number, kind: string, options: { host: StreamHost; windowBytes: number }) {
    this.id = id;
    this.kind = kind;
    this.#host = options.host;
    this.#windowBytes = options.windowBytes;
    this.#ring = new ByteRing(options.windowBytes);
  }

  /** Whether nothing more can be sent or received; received bytes may still wait to be read. */
  get closed(): boolean {
    return this.#error !== undefined || (this.#ended && this.#peerEnded);
  }

  /** Received bytes, maybe fewer than `buffer` holds; null after the peer's end. */
  async read(buffer: Uint8Array): Promise<number | null> {
    if (buffer.length === 0) return 0;
    const bytes = await this.peek();
    if (bytes === null) return null;
    const count = Math.min(bytes.length, buffer.length);
    buffer.set(bytes.subarray(0, count));
    this.consume(count);
    return count;
  }

  /**
   * As `read`, without a copy: received bytes where they lie, valid until `consume`. One reader at
   * a time. After the session's end what was received is still given, then the reason is thrown.
   */
  async peek(): Promise<Uint8Array | null> {
    while (this.#ring.size === 0) {
      if (this.#peerEnded) return null;
      if (this.#error) throw this.#error;
      if (this.#wakeReader) {
        throw new AgentError("internal_error", `Stream '${this.kind}' has two readers`, {
          kind: "internal",
        });
      }
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wakeReader = resolve;
      await promise;
    }
    return this.#ring.peek();
  }

  /** Lets go of the first `count` bytes that `peek` gave, and gives the peer credit for them. */
  consume(count: number): void {
    if (count > this.#ring.size) return; // a reset has thrown them away meanwhile
    this.#ring.consume(count);
    this.#consumedBytes += count;
    if (this.#consumedBytes >= this.#windowBytes / 2) {
      this.#grant(this.#consumedBytes);
      this.#consumedBytes = 0;
    }
  }

  /** Sends all of `chunk`, as soon as credit allows, and gives its length. */
  async write(chunk: Uint8Array): Promise<number> {
    await this.#inTurn(async () => {
      for (let at = 0; at < chunk.length; at += MAX_PAYLOAD_BYTES) {
        const part = chunk.subarray(at, at + MAX_PAYLOAD_BYTES);
        const frame = new Uint8Array(HEADER_BYTES + part.length);
        frame.set(part, HEADER_BYTES);
        await this.#sendData(frame);
      }
    });
    return chunk.length;
  }

  /**
   * As `write`, without a copy: the data begins at HEADER_BYTES in `frame`, all of which may be
   * overwritten, and is at most MAX_PAYLOAD_BYTES long.
   */
  writeFrame(frame: Uint8Array): Promise<void> {
    return this.#inTurn(() => this.#sendData(frame));
  }

  /** Nothing more will be written. What was written before arrives; reading goes on. */
  closeWrite(): Promise<void> {
    return this.#inTurn(async () => {
      if (this.#ended) return;
      this.#checkWritable();
      this.#ended = true;
      await this.#host.send(encodeFrame({ type: "end", stream: this.id }));
      if (this.#peerEnded) this.#host.forget(this);
    });
  }

  /** Ends both directions now; unread bytes are lost. `code` is snake_case. */
  reset(code: string, text: string): void {
    if (this.closed) return;
    this.#host.post({ type: "reset", stream: this.id, code, text });
    this.#ring.clear();
    this.#host.forget(this);
    this.abandon(
      new AgentError("stream_reset", `Stream '${this.kind}' was given up here (${code}): ${text}`),
    );
  }

  // What follows is for the session.

  /** Somebody uses the stream: the peer may fill the whole window. */
  open(): void {
    this.#grant(this.#windowBytes - INITIAL_CREDIT_BYTES);
  }

  /** A data frame begins: where its payload goes. Throws `protocol_error`. */
  beginData(length: number): PayloadSink {
    if (this.#peerEnded) throw protocolError(`data after the end of stream '${this.kind}'`);
    if (length > this.#receiveCredit) {
      throw protocolError(
        `${length} bytes on stream '${this.kind}' with credit for ${this.#receiveCredit}`,
      );
    }
    this.#receiveCredit -= length;
    this.#ring.begin(length);
    return this.#ring;
  }

  /** The payload is complete. */
  finishData(): void {
    this.#ring.publish();
    if (this.#error) this.#ring.clear(); // reset here while the payload came in
    this.#wake();
  }

  addCredit(bytes: number): void {
    this.#sendCredit += bytes;
    if (this.#sendCredit > MAX_CREDIT_BYTES) {
      throw protocolError(`credit of ${this.#sendCredit} bytes on stream '${this.kind}'`);
    }
    this.#wake();
  }

  peerEnd(): void {
    if (this.#peerEnded) throw protocolError(`a second end of stream '${this.kind}'`);
    this.#peerEnded = true;
    if (this.#ended) this.#host.forget(this);
    this.#wake();
  }

  peerReset(code: string, text: string): void {
    this.#ring.clear();
    this.#host.forget(this);
    this.abandon(
      new AgentError(
        "stream_reset",
        `Stream '${this.kind}' was given up by the other agent (${code}): ${quotePeer(text)}`,
      ),
    );
  }

  /** Nothing comes and nothing goes any more, because of `error`. */
  abandon(error: AgentError): void {
    this.#error ??= error;
    this.#wake();
  }

  #grant(bytes: number): void {
    if (bytes === 0 || this.#peerEnded || this.#error) return;
    this.#receiveCredit += bytes;
    this.#host.post({ type: "credit", stream: this.id, bytes });
  }

  #wake(): void {
    this.#wakeReader?.();
    this.#wakeReader = undefined;
    this.#wakeWriter?.();
    this.#wakeWriter = undefined;
  }

  #checkWritable(): void {
    if (this.#error) throw this.#error;
    if (this.#ended) {
      throw new AgentError(
        "stream_ended",
        `Stream '${this.kind}' was half-closed: no more writes`,
        {
          kind: "internal",
        },
      );
    }
  }

  async #waitForCredit(): Promise<void> {
    this.#checkWritable();
    while (this.#sendCredit === 0) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wakeWriter = resolve;
      await promise;
      this.#checkWritable();
    }
  }

  async #sendData(frame: Uint8Array): Promise<void> {
    let at = 0; // where the header goes: right before what is still to be sent
    while (at + HEADER_BYTES < frame.length) {
      await this.#waitForCredit();
      const length = Math.min(frame.length - at - HEADER_BYTES, this.#sendCredit);
      this.#sendCredit -= length;
      putHeader(frame, at, { type: "data", stream: this.id, length });
      await this.#host.send(frame.subarray(at, at + HEADER_BYTES + length));
      at += length;
    }
  }

  /** Runs `work` after every write that was asked for before. */
  #inTurn(work: () => Promise<void>): Promise<void> {
    const result = this.#lastWrite.then(work);
    this.#lastWrite = result.catch(() => {}); // told to whoever asked for that write
    return result;
  }
}
