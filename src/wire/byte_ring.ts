// Received bytes of one stream, between the session that reads them from the connection and the
// stream's reader. Knows nothing of frames or credit; whoever fills it keeps to its capacity.

/** Room beyond the capacity, so that a read can bring the next header along with a payload. */
const SLACK_BYTES = 64;
const FIRST_BYTES = 16 * 1024;

/**
 * A ring that grows up to a capacity. Bytes are read from the connection straight into it and can
 * be passed on straight from it: a relay copies nothing. Compared with a list of chunks, its memory
 * is bounded by the credit however small the peer makes its frames.
 */
export class ByteRing {
  readonly #maxBytes: number;
  #buffer: Uint8Array = new Uint8Array(0);
  #start = 0;
  #size = 0;
  /** Committed so far by a payload that is not complete: not readable yet. */
  #pending = 0;

  constructor(capacityBytes: number) {
    this.#maxBytes = capacityBytes + SLACK_BYTES;
  }

  /** Readable bytes. */
  get size(): number {
    return this.#size;
  }

  /** Makes room for a payload of `length` bytes. The capacity must allow it. */
  begin(length: number): void {
    const needed = this.#size + length + SLACK_BYTES;
    if (needed > this.#buffer.length) this.#grow(needed);
    // An empty ring starts over at 0: a reader that keeps up works in few, cached pages.
    else if (this.#size === 0) this.#start = 0;
  }

  /** Contiguous free room after what was committed, at most `want` bytes. */
  reserve(want: number): Uint8Array {
    const used = this.#size + this.#pending;
    const capacity = this.#buffer.length;
    const at = (this.#start + used) % capacity;
    return this.#buffer.subarray(at, Math.min(at + Math.min(want, capacity - used), capacity));
  }

  /** `count` bytes of the room reserved last are filled. */
  commit(count: number): void {
    this.#pending += count;
  }

  /** The payload is complete: what was committed becomes readable. */
  publish(): void {
    this.#size += this.#pending;
    this.#pending = 0;
  }

  /** The oldest readable bytes that lie together. Valid until they are consumed. */
  peek(): Uint8Array {
    const end = Math.min(this.#start + this.#size, this.#buffer.length);
    return this.#buffer.subarray(this.#start, end);
  }

  /** Drops the oldest `count` bytes. */
  consume(count: number): void {
    this.#size -= count;
    this.#start = (this.#start + count) % this.#buffer.length;
  }

  /** Drops everything that is readable. A payload that is being received may go on. */
  clear(): void {
    if (this.#size > 0) this.consume(this.#size);
  }

  #grow(needed: number): void {
    let length = Math.max(FIRST_BYTES, this.#buffer.length);
    while (length < needed) length *= 2;
    const bigger = new Uint8Array(Math.min(length, this.#maxBytes));
    const first = this.peek();
    bigger.set(first);
    bigger.set(this.#buffer.subarray(0, this.#size - first.length), first.length);
    this.#buffer = bigger;
    this.#start = 0;
  }
}
