// A connection in memory for tests: two ends, reads of chosen sizes, writes that can be held.

import type { ByteLink } from "../../../src/wire/byte_link.ts";

/** One end. What it writes the other end reads. */
export class MemoryLink implements ByteLink {
  closed = false;
  writeClosed = false;
  /** The most bytes that the next read gives. */
  readLimit: () => number = () => Infinity;
  #peer: MemoryLink | undefined;
  #incoming: Uint8Array[] = [];
  #written: Uint8Array[] = [];
  #incomingEnded = false;
  #wake = Promise.withResolvers<void>();
  #hold: PromiseWithResolvers<void> | undefined;

  static pair(): [MemoryLink, MemoryLink] {
    const a = new MemoryLink();
    const b = new MemoryLink();
    a.#peer = b;
    b.#peer = a;
    return [a, b];
  }

  /** Everything that this end has written. */
  get written(): Uint8Array {
    return concat(this.#written);
  }

  async read(p: Uint8Array): Promise<number | null> {
    for (;;) {
      if (this.closed) throw new Deno.errors.Interrupted("closed here");
      const first = this.#incoming[0];
      if (first !== undefined) {
        const count = Math.min(first.length, p.length, Math.max(1, this.readLimit()));
        p.set(first.subarray(0, count));
        if (count === first.length) this.#incoming.shift();
        else this.#incoming[0] = first.subarray(count);
        return count;
      }
      if (this.#incomingEnded) return null;
      await this.#wake.promise;
    }
  }

  async write(p: Uint8Array): Promise<number> {
    await this.#hold?.promise;
    if (this.closed || this.writeClosed) throw new Deno.errors.BrokenPipe("closed here");
    if (this.#peer!.closed) throw new Deno.errors.BrokenPipe("closed there");
    const copy = p.slice();
    this.#written.push(copy);
    this.#peer!.#incoming.push(copy);
    this.#peer!.#notify();
    return p.length;
  }

  closeWrite(): Promise<void> {
    this.writeClosed = true;
    this.#peer!.#incomingEnded = true;
    this.#peer!.#notify();
    return Promise.resolve();
  }

  close(): void {
    if (this.closed) throw new Deno.errors.BadResource("closed twice");
    this.closed = true;
    this.#notify();
    this.#peer!.#incomingEnded = true;
    this.#peer!.#notify();
  }

  /** Writes wait from now on, as with a full send buffer; also after `close`, as in Deno. */
  holdWrites(): void {
    this.#hold = Promise.withResolvers<void>();
  }

  releaseWrites(): void {
    this.#hold?.resolve();
    this.#hold = undefined;
  }

  #notify(): void {
    this.#wake.resolve();
    this.#wake = Promise.withResolvers<void>();
  }
}

export function concat(parts: Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** A reproducible source of numbers in [0, 1) (mulberry32). */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A seed for this run, printed so that the run can be repeated: SEED=... */
export function chooseSeed(): number {
  const seed = Number(Deno.env.get("SEED") ?? Math.floor(Math.random() * 2 ** 32));
  console.log(`SEED=${seed}`);
  return seed;
}

export function randomBytes(size: number, random: () => number): Uint8Array {
  const bytes = new Uint8Array(size);
  for (let i = 0; i < size; i++) bytes[i] = Math.floor(random() * 256);
  return bytes;
}

/** Lets everything that can go on without time passing go on. */
export async function settle(): Promise<void> {
  for (let i = 0; i < 200; i++) await Promise.resolve();
}
