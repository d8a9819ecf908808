// The peer as a list of bytes: what it says is given in pieces of one size, then it ends. What is
// written to it is counted and dropped.

import type { ByteLink } from "../../src/wire/byte_link.ts";

export class ScriptedLink implements ByteLink {
  writtenBytes = 0;
  readonly #bytes: Uint8Array;
  readonly #pieceBytes: number;
  #at = 0;
  #closed = false;

  constructor(bytes: Uint8Array, pieceBytes: number) {
    this.#bytes = bytes;
    this.#pieceBytes = pieceBytes;
  }

  // Not an async function: one promise a call, and the cases are many.
  read(p: Uint8Array): Promise<number | null> {
    if (this.#closed) return Promise.reject(new Deno.errors.Interrupted("closed here"));
    if (this.#at >= this.#bytes.length) return Promise.resolve(null);
    const piece = this.#bytes.subarray(this.#at, this.#at + Math.min(this.#pieceBytes, p.length));
    p.set(piece);
    this.#at += piece.length;
    return Promise.resolve(piece.length);
  }

  write(p: Uint8Array): Promise<number> {
    if (this.#closed) return Promise.reject(new Deno.errors.BrokenPipe("closed here"));
    this.writtenBytes += p.length;
    return Promise.resolve(p.length);
  }

  closeWrite(): Promise<void> {
    return Promise.resolve();
  }

  close(): void {
    this.#closed = true;
  }

  /** As a stream's; nothing more is read. */
  reset(): void {
    this.#closed = true;
  }
}

/** Sizes of pieces: as little as possible, around a header, and all that is there. */
export const PIECES: readonly number[] = [1, 2, 5, 11, 12, 13, 64, 1 << 20];
