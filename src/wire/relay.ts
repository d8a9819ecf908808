// Carries bytes between two duplexes, both ways at once: a unix socket of QEMU's and a stream, or
// any two. Knows nothing of what the bytes mean.

import { abortable } from "../base/deadline.ts";
import { type Duplex, writeAll } from "./byte_link.ts";
import { HEADER_BYTES, MAX_PAYLOAD_BYTES } from "./frame.ts";
import { WireStream } from "./stream.ts";

export interface RelayOptions {
  signal: AbortSignal;
  /** Told after each piece that `to` has taken: which way, and how many bytes. */
  onBytes?: (way: RelayWay, count: number) => void;
}

export type RelayWay = "a_to_b" | "b_to_a";

export interface RelayTotals {
  aToBBytes: number;
  bToABytes: number;
}

/**
 * Passes bytes, and each direction's end, from `a` to `b` and from `b` to `a`, until both directions
 * have ended. Throws what a read or write throws, or the signal's reason; then both belong to nobody,
 * one operation on each may still be under way, and the caller must close (or reset) both.
 */
export async function relay(a: Duplex, b: Duplex, options: RelayOptions): Promise<RelayTotals> {
  const { signal, onBytes } = options;
  signal.throwIfAborted();
  const stop = new AbortController();
  try {
    const both = Promise.all([
      pump(a, b, { stop: stop.signal, onBytes: (count) => onBytes?.("a_to_b", count) }),
      pump(b, a, { stop: stop.signal, onBytes: (count) => onBytes?.("b_to_a", count) }),
    ]);
    const [aToBBytes, bToABytes] = await abortable(both, signal);
    return { aToBBytes, bToABytes };
  } finally {
    stop.abort();
  }
}

interface PumpOptions {
  /** Nothing new is begun once this has aborted. */
  stop: AbortSignal;
  onBytes: (count: number) => void;
}

async function pump(from: Duplex, to: Duplex, options: PumpOptions): Promise<number> {
  const total = from instanceof WireStream
    ? await pumpStream(from, to, options)
    : await pumpLink(from, to, options);
  if (options.stop.aborted) return total;
  try {
    await to.closeWrite();
  } catch (error) {
    // It has gone already, after it took every byte: there is nobody left to be told of the end.
    if (!(error instanceof Deno.errors.NotConnected)) throw error;
  }
  return total;
}

/** From a stream: the session reads ahead, so the bytes are passed on from where they lie. */
async function pumpStream(from: WireStream, to: Duplex, options: PumpOptions): Promise<number> {
  let total = 0;
  for (;;) {
    const bytes = await from.peek();
    if (bytes === null || options.stop.aborted) return total;
    await writeAll(to, bytes);
    from.consume(bytes.length);
    total += bytes.length;
    options.onBytes(bytes.length);
  }
}

/** From a connection: two buffers in turn, so that one is filled while the other is sent. */
async function pumpLink(from: Duplex, to: Duplex, options: PumpOptions): Promise<number> {
  let filling = new Uint8Array(HEADER_BYTES + MAX_PAYLOAD_BYTES);
  let sending = new Uint8Array(HEADER_BYTES + MAX_PAYLOAD_BYTES);
  let total = 0;
  let reading = from.read(filling.subarray(HEADER_BYTES));
  for (;;) {
    const count = await reading;
    if (count === null || options.stop.aborted) return total;
    [sending, filling] = [filling, sending];
    reading = from.read(filling.subarray(HEADER_BYTES));
    reading.catch(() => {}); // thrown at the next turn, unless the write below fails first
    if (to instanceof WireStream) await to.writeFrame(sending.subarray(0, HEADER_BYTES + count));
    else await writeAll(to, sending.subarray(HEADER_BYTES, HEADER_BYTES + count));
    total += count;
    options.onBytes(count);
  }
}
