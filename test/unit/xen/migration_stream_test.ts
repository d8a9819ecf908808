// The parser of `xl migrate`'s stream, fed with what a real one wrote.

import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import { PERMISSION } from "../../../src/xen/conversation.ts";
import {
  makeHeader,
  MigrationStream,
  type StreamKind,
} from "../../../src/xen/stream/migration_stream.ts";
import { fromParts, XEN } from "../../fuzz/corpus.ts";
import { join } from "../../fuzz/mutate_bytes.ts";
import { Random } from "../../fuzz/random.ts";

const WHOLE = fromParts(XEN.sender);
/** Where in `XEN.sender` what is. */
const PART = {
  xl: 0,
  libxl: 1,
  context: 2,
  image: 3,
  domain: 4,
  static_data_end: 11,
  pages: 12,
  pages_of_none: 14,
  tsc: 19,
  params: 24,
  image_end: 27,
  emulator: 28,
  end: 31,
  permission: 32,
};
const END_OFFSET = offsetOf("end");

interface Given {
  kind: StreamKind | "data";
  bytes: Uint8Array;
}

/** What comes out, with neighbouring data as one. */
function feedAll(stream: MigrationStream, chunks: Iterable<Uint8Array>): Given[] {
  const given: { kind: Given["kind"]; parts: Uint8Array[] }[] = [];
  for (const chunk of chunks) {
    for (const { kind, bytes } of stream.feed(chunk)) {
      const last = given.at(-1);
      if (last?.kind === "data" && kind === "data") last.parts.push(bytes.slice());
      else given.push({ kind, parts: [bytes.slice()] });
    }
    chunk.fill(0xee); // the caller reads into the same buffer again
  }
  return given.map(({ kind, parts }) => ({ kind, bytes: join(...parts) }));
}

function* inPieces(bytes: Uint8Array, size: () => number): Generator<Uint8Array> {
  for (let at = 0; at < bytes.length;) {
    const piece = bytes.slice(at, at + size());
    at += piece.length;
    yield piece;
  }
}

function offsetOf(part: keyof typeof PART): number {
  return fromParts(XEN.sender.slice(0, PART[part])).length;
}

/** The recorded stream with other parts in the place of one. */
function withParts(part: keyof typeof PART, ...parts: string[]): Uint8Array {
  return fromParts(XEN.sender.toSpliced(PART[part], 1, ...parts));
}

/** The recorded stream with other bytes at `at` within a part. */
function withBytes(part: keyof typeof PART, at: number, hex: string): Uint8Array {
  const bytes = WHOLE.slice();
  bytes.set(Uint8Array.fromHex(hex), offsetOf(part) + at);
  return bytes;
}

Deno.test("xen stream: the recorded migration, in one piece", () => {
  const stream = new MigrationStream();
  const given = feedAll(stream, [WHOLE.slice()]);
  assertEquals(given.map(({ kind }) => kind), ["header", "data", "end", "permission"]);
  assertEquals(join(...given.map(({ bytes }) => bytes)), WHOLE);
  const [header, data, end, permission] = given;
  assertEquals(header!.bytes, fromParts(XEN.sender.slice(0, 1)));
  assertEquals(header!.bytes.length + data!.bytes.length, END_OFFSET);
  assertEquals(end!.bytes, new Uint8Array(8));
  assertEquals(permission!.bytes, PERMISSION);
  assertEquals(stream.offset, WHOLE.length);
  stream.checkEnded();
});

Deno.test("xen stream: what is known of it", () => {
  const { progress } = fed(WHOLE);
  const { imageVersion, xenVersion, verifies, passes, pageBytes } = progress;
  assertEquals([imageVersion, xenVersion, verifies], [3, "4.17", false]);
  assertEquals([passes, pageBytes], [3, 5 * 4096]);
  assertEquals(Object.fromEntries(progress.records), {
    "libxl LIBXC_CONTEXT": 1,
    "libxc X86_CPUID_POLICY": 1,
    "libxc X86_MSR_POLICY": 1,
    "libxc STATIC_DATA_END": 1,
    "libxc PAGE_DATA": 4,
    "libxc X86_TSC_INFO": 1,
    "libxc HVM_CONTEXT": 1,
    "libxc HVM_PARAMS": 1,
    "libxc END": 1,
    "libxl EMULATOR_CONTEXT": 1,
    "libxl END": 1,
  });
});

Deno.test("xen stream: the first record that only a suspended domain has says that it is", () => {
  const tsc = offsetOf("tsc");
  for (const [bytes, suspended] of [[tsc + 7, false], [tsc + 8, true]] as const) {
    const stream = new MigrationStream();
    feedAll(stream, [WHOLE.slice(0, bytes)]);
    assertEquals(stream.progress.isSuspended, suspended);
  }
});

Deno.test("xen stream: pages that are only compared count in no pass", () => {
  const { progress } = fed(fromParts(XEN.sender_debug));
  assertEquals([progress.verifies, progress.passes, progress.pageBytes], [true, 3, 5 * 4096]);
  assertEquals(progress.records.get("libxc PAGE_DATA"), 6);
});

const PASSES: [string, string[], number][] = [
  ["rising page numbers are one pass", ["03", "0400", "05"], 1],
  ["the same page again is another", ["03", "03", "02"], 3],
  ["above 16 TiB", ["0100000002", "0500000001"], 2],
  ["the type of a page is no part of its number", ["05000000000000f0", "06"], 1],
];

for (const [about, numbers, passes] of PASSES) {
  Deno.test(`xen stream: passes; ${about}`, () => {
    const records = numbers.flatMap((pfn) => [
      "01000000" + (pfn.endsWith("f0") ? "10000000" : "10100000") + "0100000000000000",
      pfn.padEnd(16, "0"),
      ...(pfn.endsWith("f0") ? [] : ["00*4096"]),
    ]);
    const { progress } = fed(
      fromParts(XEN.sender.toSpliced(PART.pages, PART.tsc - PART.pages, ...records)),
    );
    assertEquals(progress.passes, passes);
  });
}

Deno.test("xen stream: one byte at a time, and what is kept back", () => {
  const stream = new MigrationStream();
  const boundaries = new Set(XEN.sender.map((_, i) => fromParts(XEN.sender.slice(0, i)).length));
  let out = 0;
  for (const [at, byte] of WHOLE.entries()) {
    for (const { kind, bytes } of stream.feed(Uint8Array.of(byte))) {
      assertEquals(bytes, WHOLE.slice(out, out + bytes.length));
      if (kind === "end") assertEquals([out, at], [END_OFFSET, END_OFFSET + 7]);
      if (kind === "permission") assertEquals(at, WHOLE.length - 1);
      out += bytes.length;
    }
    // Nobody gets a part of the header or of the two messages.
    if (at < offsetOf("libxl") - 1) assertEquals(out, 0);
    if (at >= END_OFFSET && at < END_OFFSET + 7) assertEquals(out, END_OFFSET);
    if (at >= END_OFFSET + 7 && at < WHOLE.length - 1) assertEquals(out, END_OFFSET + 8);
    const isBoundary = boundaries.has(at) || boundaries.has(at + 1) || boundaries.has(at + 2);
    if (at < END_OFFSET + 7 && isBoundary) {
      const error = assertThrows(() => stream.checkEnded(), AgentError);
      assertEquals(error.code, "xen_stream_truncated");
    } else if (at >= END_OFFSET + 7) stream.checkEnded();
  }
  assertEquals(out, WHOLE.length);
});

Deno.test("xen stream: however it is cut, the same comes out", () => {
  const whole = new MigrationStream();
  const expected = feedAll(whole, [WHOLE.slice()]);
  const check = (chunks: Iterable<Uint8Array>, how: string) => {
    const stream = new MigrationStream();
    assertEquals(feedAll(stream, chunks), expected, how);
    assertEquals(stream.progress, whole.progress, how);
  };
  let boundary = 0;
  for (const part of XEN.sender) {
    boundary += fromParts([part]).length;
    for (const at of [boundary - 1, boundary, boundary + 1]) {
      check([WHOLE.slice(0, at), WHOLE.slice(at)], `cut at ${at}`);
    }
  }
  for (let seed = 1; seed <= 50; seed++) {
    const random = new Random(seed, 0);
    const most = random.pick([30, 300, 9000]);
    check(inPieces(WHOLE, () => 1 + random.below(most)), `seed ${seed}`);
  }
  check([new Uint8Array(0), WHOLE.slice(), new Uint8Array(0)], "empty chunks");
});

Deno.test("xen stream: what is passed over lies in the chunk, in as few pieces as can be", () => {
  const stream = new MigrationStream();
  const from = offsetOf("domain") + 3;
  feedAll(stream, [WHOLE.slice(0, from)]);
  const chunk = WHOLE.slice(from, offsetOf("params") + 5);
  const pieces = [...stream.feed(chunk)];
  // The rest of a header that began earlier, what follows, and the beginning of another is kept.
  assertEquals(pieces.length, 2);
  assertEquals(pieces[0]!.bytes.length, 16);
  assert(pieces[1]!.bytes.buffer === chunk.buffer);
  assertEquals(pieces[1]!.bytes.length, chunk.length - 13 - 5);
});

Deno.test("xen stream: images of version 2 have no STATIC_DATA_END", () => {
  const parts = XEN.sender.toSpliced(PART.static_data_end, 1);
  parts[PART.image] = parts[PART.image]!.replace("00000003", "00000002");
  const { progress } = fed(fromParts(parts));
  assertEquals([progress.imageVersion, progress.passes], [2, 3]);
});

Deno.test("xen stream: optional records are passed on, and an empty HVM_PARAMS", () => {
  const optional = "07000080" + "05000000" + "11223344550000aa";
  fed(withParts("context", optional, XEN.sender[PART.context]!));
  fed(withParts("static_data_end", optional, XEN.sender[PART.static_data_end]!));
  const parts = XEN.sender.toSpliced(PART.params, 3, "0a00000000000000");
  fed(fromParts(parts));
  const { records } = fed(withParts("end", optional, XEN.sender[PART.end]!)).progress;
  assertEquals(records.get("libxl optional"), 1);
});

Deno.test("xen stream: a header of ours is one of xl's", () => {
  const config = '{"c_info":{"name":"g\u00fc"}}';
  const made = makeHeader(config);
  const given = feedAll(new MigrationStream(), [join(made, WHOLE.slice(offsetOf("libxl")))]);
  assertEquals(given[0], { kind: "header", bytes: makeHeader(config) });
  const recorded = fromParts(XEN.sender.slice(0, 1));
  const text = new TextDecoder().decode(recorded.subarray(52, -1));
  assertEquals(makeHeader(text), recorded);
});

/** What it is, the error's code, and where in the recorded stream the error is. */
const REFUSED: [string, string, number, Uint8Array][] = [
  ["another magic", "malformed", offsetOf("xl"), withBytes("xl", 31, "0a")],
  ["big-endian numbers", "version", offsetOf("xl"), withBytes("xl", 32, "01020304")],
  ["no JSON", "version", offsetOf("xl"), withBytes("xl", 36, "02000000")],
  ["a legacy stream", "version", offsetOf("xl"), withBytes("xl", 36, "01000000")],
  ["a new mandatory flag", "version", offsetOf("xl"), withBytes("xl", 36, "07000000")],
  ["no configuration", "limit", offsetOf("xl"), withBytes("xl", 44, "00000000")],
  ["an endless configuration", "limit", offsetOf("xl"), withBytes("xl", 44, "01001000")],
  ["an empty configuration", "malformed", offsetOf("xl"), withBytes("xl", 48, "00000000")],
  [
    "a configuration beyond the options",
    "malformed",
    offsetOf("xl"),
    withBytes("xl", 48, "3e050000"),
  ],
  ["a configuration without its NUL", "malformed", offsetOf("xl"), withBytes("xl", 48, "3c050000")],
  ["another stream than libxl's", "malformed", offsetOf("libxl"), withBytes("libxl", 7, "75")],
  ["libxl's stream 1", "version", offsetOf("libxl"), withBytes("libxl", 8, "00000001")],
  ["libxl's stream 3", "version", offsetOf("libxl"), withBytes("libxl", 8, "00000003")],
  ["libxl's stream, big-endian", "version", offsetOf("libxl"), withBytes("libxl", 12, "00000001")],
  ["libxl's stream, converted", "version", offsetOf("libxl"), withBytes("libxl", 12, "00000002")],
  [
    "END without memory",
    "malformed",
    offsetOf("context"),
    withParts("context", "0000000000000000"),
  ],
  ["LIBXC_CONTEXT with a body", "limit", offsetOf("context"), withBytes("context", 4, "08000000")],
  [
    "a second LIBXC_CONTEXT",
    "malformed",
    offsetOf("emulator"),
    withBytes("emulator", 0, "0100000000000000"),
  ],
  ["a new libxl record", "record", offsetOf("emulator"), withBytes("emulator", 0, "06000000")],
  [
    "a checkpoint's end",
    "record",
    offsetOf("emulator"),
    withBytes("emulator", 0, "0400000000000000"),
  ],
  ["a checkpoint's state", "record", offsetOf("emulator"), withBytes("emulator", 0, "05000000")],
  [
    "an EMULATOR_CONTEXT without head",
    "limit",
    offsetOf("emulator"),
    withBytes("emulator", 4, "07000000"),
  ],
  ["a huge EMULATOR_CONTEXT", "limit", offsetOf("emulator"), withBytes("emulator", 4, "01000004")],
  [
    "a huge optional record",
    "limit",
    offsetOf("emulator"),
    withBytes("emulator", 0, "0600008001001000"),
  ],
  ["END with a body", "limit", offsetOf("end"), withBytes("end", 4, "08000000")],
  ["a legacy image", "malformed", offsetOf("image"), withBytes("image", 7, "fe")],
  ["an image of another name", "malformed", offsetOf("image"), withBytes("image", 8, "59")],
  ["an image of version 1", "version", offsetOf("image"), withBytes("image", 12, "00000001")],
  ["an image of version 4", "version", offsetOf("image"), withBytes("image", 12, "00000004")],
  ["a big-endian image", "version", offsetOf("image"), withBytes("image", 16, "0001")],
  ["a PV guest", "record", offsetOf("domain"), withBytes("domain", 0, "01000000")],
  ["large pages", "malformed", offsetOf("domain"), withBytes("domain", 4, "1000")],
  ["a new libxc record", "record", offsetOf("tsc"), withBytes("tsc", 0, "13000000")],
  ["a PV guest's record", "record", offsetOf("tsc"), withBytes("tsc", 0, "02000000")],
  ["a checkpoint", "record", offsetOf("tsc"), withBytes("tsc", 0, "0e00000000000000")],
  ["a short TSC record", "limit", offsetOf("tsc"), withBytes("tsc", 4, "10000000")],
  ["a huge HVM_PARAMS", "limit", offsetOf("params"), withBytes("params", 4, "01001000")],
  [
    "the image's END with a body",
    "limit",
    offsetOf("image_end"),
    withBytes("image_end", 4, "01000000"),
  ],
  ["PAGE_DATA without pages", "limit", offsetOf("pages"), withBytes("pages", 4, "08000000")],
  ["PAGE_DATA of 0 pages", "malformed", offsetOf("pages"), withBytes("pages", 8, "00000000")],
  ["PAGE_DATA with half a page", "malformed", offsetOf("pages"), withBytes("pages", 4, "20080000")],
  [
    "PAGE_DATA with too few pages",
    "malformed",
    offsetOf("pages"),
    withBytes("pages", 8, "ffffffff"),
  ],
  [
    "PAGE_DATA with too many pages",
    "malformed",
    offsetOf("pages_of_none"),
    withBytes("pages_of_none", 4, "20400000"),
  ],
  ["a huge PAGE_DATA", "limit", offsetOf("pages"), withBytes("pages", 4, "08000008")],
  [
    "more between END and permission",
    "malformed",
    offsetOf("permission"),
    withParts("permission", "00"),
  ],
  ["another permission", "malformed", offsetOf("permission"), withBytes("permission", 43, "21")],
  ["more after the permission", "malformed", WHOLE.length, join(WHOLE, Uint8Array.of(0))],
];

for (const [about, code, offset, bytes] of REFUSED) {
  Deno.test(`xen stream, refused: ${about}`, () => {
    const stream = new MigrationStream();
    const given = { bytes: 0 };
    const error = assertThrows(() => count(stream, bytes, given), AgentError);
    assertEquals([error.code, error.kind], [`xen_stream_${code}`, "failed"]);
    assertStringIncludes(error.message, ` at byte ${offset} `);
    // The same, and as early, byte by byte; and ever after.
    const slow = new MigrationStream();
    const slowly = { bytes: 0 };
    const again = assertThrows(() => {
      for (const byte of bytes) count(slow, Uint8Array.of(byte), slowly);
    }, AgentError);
    assertEquals(again.message, error.message);
    assertThrows(() => count(slow, Uint8Array.of(0), slowly), AgentError, error.message);
    assert(given.bytes <= slowly.bytes);
  });
}

Deno.test("xen stream: an error says where and what", () => {
  const error = assertThrows(
    () => fed(withBytes("emulator", 0, "06000000")),
    AgentError,
  );
  assertEquals(
    error.message,
    `The domain's migration stream has at byte ${
      offsetOf("emulator")
    } a libxl record of type 0x6, ` +
      "which is not understood, and may not be ignored",
  );
});

/** A stream that has got all of that, to its proper end. */
function fed(bytes: Uint8Array): MigrationStream {
  const stream = new MigrationStream();
  const given = feedAll(stream, [bytes.slice()]);
  assertEquals(join(...given.map((piece) => piece.bytes)), bytes);
  stream.checkEnded();
  return stream;
}

function count(stream: MigrationStream, chunk: Uint8Array, given: { bytes: number }): void {
  for (const { bytes } of stream.feed(chunk)) given.bytes += bytes.length;
}
