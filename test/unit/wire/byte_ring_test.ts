import { assertEquals } from "@std/assert";
import { ByteRing } from "../../../src/wire/byte_ring.ts";
import { chooseSeed, seededRandom } from "./memory_link.ts";

const CAPACITY = 64 * 1024;

/** The byte at a position of the test's endless data. */
const byteAt = (position: number) => (position * 31 + (position >> 8) * 7) & 0xff;

Deno.test("what goes into a ring comes out, whatever the pieces", () => {
  const random = seededRandom(chooseSeed());
  const ring = new ByteRing(CAPACITY);
  let written = 0;
  let read = 0;

  const consume = () => {
    const bytes = ring.peek();
    const count = Math.floor(random() * (bytes.length + 1));
    for (let i = 0; i < count; i++) {
      if (bytes[i] !== byteAt(read + i)) throw new Error(`byte ${read + i} is wrong`);
    }
    if (count > 0) ring.consume(count);
    read += count;
  };

  for (let round = 0; round < 1000; round++) {
    const length = 1 + Math.floor(random() * 9000);
    if (ring.size + length <= CAPACITY) {
      ring.begin(length);
      for (let at = 0; at < length;) {
        // As the session does: more room than the payload needs, and part of it used.
        const room = ring.reserve(length - at + 12);
        const count = Math.min(room.length, length - at, 1 + Math.floor(random() * 4000));
        room.fill(0xee);
        for (let i = 0; i < count; i++) room[i] = byteAt(written + at + i);
        ring.commit(count);
        at += count;
        if (random() < 0.3) consume(); // what is readable, while the payload is incomplete
      }
      ring.publish();
      written += length;
    }
    assertEquals(ring.size, written - read);
    consume();
  }
});
