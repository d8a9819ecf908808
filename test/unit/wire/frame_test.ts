import { assertEquals, assertThrows } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import {
  checkPreface,
  decodeFrame,
  decodeHeader,
  encodeFrame,
  encodePreface,
  FRAME_RULES,
  type FrameType,
  HEADER_BYTES,
  MAX_PAYLOAD_BYTES,
  putHeader,
  type ShortFrame,
} from "../../../src/wire/frame.ts";
import { fromHex, specHex, specJson } from "./spec_vectors.ts";

interface Described {
  type: FrameType;
  stream?: number;
  data?: string;
  opaque?: string;
}

Deno.test("the preface is the one of the specification", () => {
  assertEquals(encodePreface(), specHex("preface"));
  checkPreface(specHex("preface"));
});

for (const type of Object.keys(FRAME_RULES) as FrameType[]) {
  Deno.test(`the specification's ${type} frame is encoded and decoded`, () => {
    const bytes = specHex(type);
    const described = specJson("vector", type) as Described;
    const header = decodeHeader(bytes);
    assertEquals(header, {
      type,
      stream: described.stream ?? 0,
      length: bytes.length - HEADER_BYTES,
    });
    const payload = bytes.subarray(HEADER_BYTES);
    if (type === "data") {
      assertEquals(payload, fromHex(described.data!));
      const again = bytes.slice().fill(0, 0, HEADER_BYTES);
      putHeader(again, 0, header);
      assertEquals(again, bytes);
      return;
    }
    const frame = described.opaque === undefined
      ? described
      : { ...described, opaque: fromHex(described.opaque) };
    assertEquals(decodeFrame(header, payload), frame as ShortFrame);
    assertEquals(encodeFrame(frame as ShortFrame), bytes);
  });
}

const BAD_HEADERS: [string, string][] = [
  ["type 0", "00 00 0000 00000000 00000000"],
  ["an unknown type", "09 00 0000 00000000 00000000"],
  ["an unknown flag", "02 01 0000 00000001 00000001"],
  ["a reserved bit", "02 00 0001 00000001 00000001"],
  ["data on stream 0", "02 00 0000 00000000 00000001"],
  ["data without bytes", "02 00 0000 00000001 00000000"],
  ["data that is too long", "02 00 0000 00000001 00040001"],
  ["an endless length", "02 00 0000 00000001 ffffffff"],
  ["open without a kind", "01 00 0000 00000001 00000000"],
  ["open with a long kind", "01 00 0000 00000001 00000021"],
  ["a short credit", "03 00 0000 00000001 00000003"],
  ["an end with bytes", "04 00 0000 00000001 00000001"],
  ["a long reset", "05 00 0000 00000001 00000401"],
  ["a ping on a stream", "06 00 0000 00000001 00000008"],
  ["a long ping", "06 00 0000 00000000 00000009"],
  ["a go-away on a stream", "08 00 0000 00000001 00000002"],
];

for (const [name, hex] of BAD_HEADERS) {
  Deno.test(`refused: ${name}`, () => {
    const error = assertThrows(() => decodeHeader(fromHex(hex)), AgentError);
    assertEquals([error.code, error.kind], ["protocol_error", "link"]);
  });
}

const BAD_PAYLOADS: [string, FrameType, string][] = [
  ["a kind in capitals", "open", "52414d"],
  ["a kind with a NUL", "open", "72616d00"],
  ["a credit of nothing", "credit", "00000000"],
  ["a code longer than its frame", "reset", "05 61"],
  ["an empty code", "reset", "00 61"],
  ["a code with a space", "go_away", "03 61 20 61"],
  ["a text that is not UTF-8", "go_away", "01 61 ff"],
  ["a text with half a surrogate pair", "reset", "01 61 eda080"],
];

for (const [name, type, hex] of BAD_PAYLOADS) {
  Deno.test(`refused: ${name}`, () => {
    const payload = fromHex(hex);
    const stream = FRAME_RULES[type].onStream ? 1 : 0;
    const error = assertThrows(
      () => decodeFrame({ type, stream, length: payload.length }, payload),
      AgentError,
    );
    assertEquals(error.code, "protocol_error");
  });
}

Deno.test("the largest data frame is allowed", () => {
  const header = { type: "data", stream: 0xffffffff, length: MAX_PAYLOAD_BYTES } as const;
  const bytes = new Uint8Array(20);
  putHeader(bytes, 5, header);
  assertEquals(decodeHeader(bytes.subarray(5)), header);
});

Deno.test("a long text is cut between characters", () => {
  const bytes = encodeFrame({ type: "go_away", code: "x", reason: "a" + "ü".repeat(2000) });
  const header = decodeHeader(bytes);
  const frame = decodeFrame(header, bytes.subarray(HEADER_BYTES));
  assertEquals(header.length, 1023); // 1 + 1 + 1 + 510 characters of two bytes
  assertEquals(frame, { type: "go_away", code: "x", reason: "a" + "ü".repeat(510) });
});

Deno.test("another protocol and another version are told apart", () => {
  const http = new TextEncoder().encode("HTTP/1.1");
  assertEquals(assertThrows(() => checkPreface(http), AgentError).code, "not_migrate_agent");
  const later = specHex("preface");
  later[7] = 2;
  const error = assertThrows(() => checkPreface(later), AgentError, "version 2");
  assertEquals(error.code, "wire_version_mismatch");
});
