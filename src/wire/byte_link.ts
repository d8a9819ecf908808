// What the wire stands on: a duplex of bytes, and reading whole frames from one. The seam for TLS:
// Deno.TcpConn, Deno.UnixConn and Deno.TlsConn all have this form.

import { AgentError } from "../base/errors.ts";
import {
  checkPreface,
  decodeHeader,
  type FrameHeader,
  HEADER_BYTES,
  PREFACE_BYTES,
} from "./frame.ts";

/** Two directions of bytes that end one by one. */
export interface Duplex {
  /** Bytes put into `p`, at least 1; null after the other side's end. */
  read(p: Uint8Array): Promise<number | null>;
  /** Bytes taken from `p`, at least 1 and maybe not all. */
  write(p: Uint8Array): Promise<number>;
  /** Nothing more will be written. */
  closeWrite(): Promise<void>;
}

/** A whole connection. */
export interface ByteLink extends Duplex {
  /**
   * Ends both directions at once; a pending read fails. A write that is blocked may stay blocked
   * (Deno 2.7 does that until the kernel gives the connection up), so nothing may wait for it.
   */
  close(): void;
}

/** Writes all of `bytes`. */
export async function writeAll(to: Duplex, bytes: Uint8Array): Promise<void> {
  let done = await to.write(bytes);
  while (done < bytes.length) done += await to.write(bytes.subarray(done));
}

/** The connection ended, or broke, without a go-away. */
export function connectionLost(detail: string, cause?: unknown): AgentError {
  return new AgentError(
    "connection_lost",
    `The connection to the other agent was lost: ${detail}`,
    {
      kind: "link",
      cause,
    },
  );
}

/** Where a payload is read to. */
export interface PayloadSink {
  /** Contiguous room for payload bytes, at least 1 byte and at most `want`. */
  reserve(want: number): Uint8Array;
  /** So many bytes at the start of the room given last are payload now. */
  commit(count: number): void;
}

/**
 * Reads frames so that a busy connection costs one read a frame: together with a payload it asks
 * for the header after it.
 */
export class FrameReader {
  readonly #link: ByteLink;
  readonly #onBytes: () => void;
  readonly #header = new Uint8Array(HEADER_BYTES);
  #headerCount = 0;

  /** `onBytes` is called after every read that brought something. */
  constructor(link: ByteLink, onBytes: () => void) {
    this.#link = link;
    this.#onBytes = onBytes;
  }

  /** Reads and checks the preface. */
  async readPreface(): Promise<void> {
    const preface = new Uint8Array(PREFACE_BYTES);
    let count = 0;
    while (count < PREFACE_BYTES) {
      count += await this.#read(preface.subarray(count));
      checkPreface(preface.subarray(0, count)); // another protocol may say less and hang up
    }
  }

  /** The next frame's header. Throws `connection_lost` at the end of the bytes. */
  async readHeader(): Promise<FrameHeader> {
    while (this.#headerCount < HEADER_BYTES) {
      this.#headerCount += await this.#read(this.#header.subarray(this.#headerCount));
    }
    this.#headerCount = 0;
    return decodeHeader(this.#header);
  }

  /**
   * Reads a payload of `length` bytes. It asks for more room than that, for the next header; what
   * is not committed is not payload.
   */
  async readPayload(length: number, into: PayloadSink): Promise<void> {
    let missing = length;
    while (missing > 0) {
      const room = into.reserve(missing + HEADER_BYTES);
      const count = await this.#read(room);
      if (count > missing) {
        this.#header.set(room.subarray(missing, count));
        this.#headerCount = count - missing;
      }
      const used = Math.min(count, missing);
      into.commit(used);
      missing -= used;
    }
  }

  async #read(room: Uint8Array): Promise<number> {
    let count: number | null;
    try {
      count = await this.#link.read(room);
    } catch (error) {
      throw connectionLost(error instanceof Error ? error.message : String(error), error);
    }
    if (count === null) throw connectionLost("it was closed without a goodbye");
    this.#onBytes();
    return count;
  }
}
