// Mutations of bytes: flips, lengths, splices.

import type { Random } from "./random.ts";

const EDGES = [0, 1, 2, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0xffff, 0x10000, 0x40000, 0x40001];
const WIDE_EDGES = [...EDGES, 0x7fffffff, 0x80000000, 0xffffffff];

/** `bytes` changed in a few places; `donors` lend parts of themselves. */
export function mutateBytes(
  random: Random,
  { bytes, donors, rounds = 4 }: {
    bytes: Uint8Array;
    donors: readonly Uint8Array[];
    rounds?: number;
  },
): Uint8Array {
  let result: Uint8Array = bytes.slice();
  for (let i = random.few(rounds); i > 0; i--) result = mutateOnce(random, result, donors);
  return result;
}

function mutateOnce(random: Random, bytes: Uint8Array, donors: readonly Uint8Array[]): Uint8Array {
  const at = bytes.length === 0 ? 0 : random.below(bytes.length);
  switch (bytes.length === 0 ? 6 : random.below(9)) {
    case 0:
      bytes[at]! ^= 1 << random.below(8);
      return bytes;
    case 1:
      bytes[at] = random.bits();
      return bytes;
    case 2:
      bytes[at] = random.pick(EDGES);
      return bytes;
    case 3: // a length or a number
      if (bytes.length >= 4) {
        const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
        const place = Math.min(at & ~3, bytes.length - 4);
        const value = random.oneIn(2)
          ? random.pick(WIDE_EDGES)
          : view.getUint32(place) + random.below(5) - 2;
        view.setUint32(place, value);
      }
      return bytes;
    case 4: // cut out
      return join(bytes.subarray(0, at), bytes.subarray(at + random.few(16)));
    case 5: // cut off
      return bytes.slice(0, at);
    case 6: { // put in
      const size = random.few(12);
      const noise = new Uint8Array(size);
      for (let i = 0; i < size; i++) noise[i] = random.bits();
      return join(bytes.subarray(0, at), noise, bytes.subarray(at));
    }
    case 7: // repeat
      return join(bytes.subarray(0, at), bytes.subarray(at, at + 32), bytes.subarray(at));
    default: { // splice
      const donor = random.pick(donors);
      const from = random.below(donor.length + 1);
      return join(bytes.subarray(0, at), donor.subarray(from, from + 64));
    }
  }
}

export function join(...parts: Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
