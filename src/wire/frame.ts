// The codec of the wire: the preface, frame headers, and the payloads of every frame that is not
// data. It knows the form of each frame and nothing of streams, order or time.
// Specification: docs/protocol.md, sections 1 and 2.

import { AgentError, quotePeer } from "../base/errors.ts";

export const HEADER_BYTES = 12;
/** The most payload that one frame can carry. */
export const MAX_PAYLOAD_BYTES = 256 * 1024;
export const WIRE_VERSION = 1;
export const PREFACE_BYTES = 8;

const MAGIC = "MIGWIRE";
/** First byte of a TLS server's answer to what is no TLS. */
const TLS_ALERT = 0x15;
const MAX_KIND_BYTES = 32;
const MAX_CODE_BYTES = 64;
const MAX_NOTE_BYTES = 1024;
const NAME = /^[a-z][a-z0-9_]*$/;

export type FrameType =
  | "open"
  | "data"
  | "credit"
  | "end"
  | "reset"
  | "ping"
  | "pong"
  | "go_away";

interface FrameRule {
  readonly number: number;
  /** Whether it belongs to a stream (else its stream number is 0). */
  readonly onStream: boolean;
  readonly minBytes: number;
  readonly maxBytes: number;
}

/** The table of section 2. */
export const FRAME_RULES: { readonly [T in FrameType]: FrameRule } = {
  open: { number: 1, onStream: true, minBytes: 1, maxBytes: MAX_KIND_BYTES },
  data: { number: 2, onStream: true, minBytes: 1, maxBytes: MAX_PAYLOAD_BYTES },
  credit: { number: 3, onStream: true, minBytes: 4, maxBytes: 4 },
  end: { number: 4, onStream: true, minBytes: 0, maxBytes: 0 },
  reset: { number: 5, onStream: true, minBytes: 2, maxBytes: MAX_NOTE_BYTES },
  ping: { number: 6, onStream: false, minBytes: 8, maxBytes: 8 },
  pong: { number: 7, onStream: false, minBytes: 8, maxBytes: 8 },
  go_away: { number: 8, onStream: false, minBytes: 2, maxBytes: MAX_NOTE_BYTES },
};

const TYPE_OF_NUMBER: (FrameType | undefined)[] = [];
for (const [type, rule] of Object.entries(FRAME_RULES)) {
  TYPE_OF_NUMBER[rule.number] = type as FrameType;
}

export interface FrameHeader {
  readonly type: FrameType;
  readonly stream: number;
  /** Payload bytes that follow. */
  readonly length: number;
}

/** Every frame but data, whose payload is never looked at. */
export type ShortFrame =
  | { type: "open"; stream: number; kind: string }
  | { type: "credit"; stream: number; bytes: number }
  | { type: "end"; stream: number }
  | { type: "reset"; stream: number; code: string; text: string }
  | { type: "ping" | "pong"; opaque: Uint8Array }
  | { type: "go_away"; code: string; reason: string };

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** What the peer did that the specification does not allow. */
export function protocolError(text: string): AgentError {
  return new AgentError("protocol_error", `The other agent broke the protocol: ${text}`, {
    kind: "link",
    hint: "Check that both sides run the same version of migrate-agent.",
  });
}

/** The bytes that each side sends first. */
export function encodePreface(): Uint8Array {
  const bytes = new Uint8Array(PREFACE_BYTES);
  encoder.encodeInto(MAGIC, bytes);
  bytes[MAGIC.length] = WIRE_VERSION;
  return bytes;
}

/**
 * Throws an AgentError of kind "link" unless the peer speaks this version of the wire. `bytes` may be
 * the beginning of a preface.
 */
export function checkPreface(bytes: Uint8Array): void {
  for (let i = 0; i < Math.min(bytes.length, MAGIC.length); i++) {
    if (bytes[i] !== MAGIC.charCodeAt(i)) {
      const seen = quotePeer(String.fromCharCode(...bytes.subarray(0, PREFACE_BYTES)));
      throw new AgentError(
        "not_migrate_agent",
        `The other end of the connection is not a migrate-agent: ${seen}`,
        {
          kind: "link",
          hint: bytes[0] === TLS_ALERT
            ? "It speaks TLS: --insecure must be given on both sides or on neither."
            : "Check the address and port.",
        },
      );
    }
  }
  if (bytes.length < PREFACE_BYTES) return;
  const version = bytes[MAGIC.length];
  if (version !== WIRE_VERSION) {
    throw new AgentError(
      "wire_version_mismatch",
      `The other agent speaks version ${version} of the wire, this one version ${WIRE_VERSION}`,
      { kind: "link", hint: "Use the same version of migrate-agent on both hosts." },
    );
  }
}

/** Writes a header into `target` at `offset`. */
export function putHeader(target: Uint8Array, offset: number, header: FrameHeader): void {
  const view = new DataView(target.buffer, target.byteOffset + offset, HEADER_BYTES);
  view.setUint32(0, FRAME_RULES[header.type].number << 24);
  view.setUint32(4, header.stream);
  view.setUint32(8, header.length);
}

/** Reads the header at the start of `bytes`; throws `protocol_error` when it is not allowed. */
export function decodeHeader(bytes: Uint8Array): FrameHeader {
  const view = new DataView(bytes.buffer, bytes.byteOffset, HEADER_BYTES);
  const number = view.getUint8(0);
  const type = TYPE_OF_NUMBER[number];
  if (type === undefined) throw protocolError(`unknown frame type ${number}`);
  if ((view.getUint32(0) & 0x00ffffff) !== 0) {
    throw protocolError(`a ${type} frame with unknown flags`);
  }
  const stream = view.getUint32(4);
  const length = view.getUint32(8);
  const rule = FRAME_RULES[type];
  if ((stream !== 0) !== rule.onStream) {
    throw protocolError(`a ${type} frame on stream ${stream}`);
  }
  if (length < rule.minBytes || length > rule.maxBytes) {
    throw protocolError(
      `a ${type} frame of ${length} bytes (${rule.minBytes} to ${rule.maxBytes} are allowed)`,
    );
  }
  return { type, stream, length };
}

/** A whole frame, header and payload. Codes must be snake_case; texts are cut to what fits. */
export function encodeFrame(frame: ShortFrame): Uint8Array {
  switch (frame.type) {
    case "open":
      return assemble(frame.type, frame.stream, encoder.encode(frame.kind));
    case "credit": {
      const payload = new Uint8Array(4);
      new DataView(payload.buffer).setUint32(0, frame.bytes);
      return assemble(frame.type, frame.stream, payload);
    }
    case "end":
      return assemble(frame.type, frame.stream, new Uint8Array(0));
    case "reset":
      return assemble(frame.type, frame.stream, encodeNote(frame.code, frame.text));
    case "ping":
    case "pong":
      return assemble(frame.type, 0, frame.opaque);
    case "go_away":
      return assemble(frame.type, 0, encodeNote(frame.code, frame.reason));
  }
}

/** The frame that `header` and its payload are; throws `protocol_error` when it has no such form. */
export function decodeFrame(header: FrameHeader, payload: Uint8Array): ShortFrame {
  const { type, stream } = header;
  switch (type) {
    case "open": {
      const kind = String.fromCharCode(...payload);
      if (!NAME.test(kind)) throw protocolError("an open frame whose kind is not a name");
      return { type, stream, kind };
    }
    case "credit": {
      const bytes = new DataView(payload.buffer, payload.byteOffset, 4).getUint32(0);
      if (bytes === 0) throw protocolError("a credit frame of 0 bytes");
      return { type, stream, bytes };
    }
    case "end":
      return { type, stream };
    case "reset":
      return { type, stream, ...decodeNote(type, payload) };
    case "ping":
    case "pong":
      return { type, opaque: payload.slice() };
    case "go_away": {
      const { code, text } = decodeNote(type, payload);
      return { type, code, reason: text };
    }
    case "data":
      throw new TypeError("data frames are not decoded here");
  }
}

function assemble(type: FrameType, stream: number, payload: Uint8Array): Uint8Array {
  const rule = FRAME_RULES[type];
  if (payload.length < rule.minBytes || payload.length > rule.maxBytes) {
    throw new RangeError(`a ${type} frame cannot carry ${payload.length} bytes`);
  }
  const bytes = new Uint8Array(HEADER_BYTES + payload.length);
  putHeader(bytes, 0, { type, stream, length: payload.length });
  bytes.set(payload, HEADER_BYTES);
  return bytes;
}

function encodeNote(code: string, text: string): Uint8Array {
  if (!NAME.test(code) || code.length > MAX_CODE_BYTES) {
    throw new RangeError(`a code must be snake_case, not '${code}'`);
  }
  const bytes = new Uint8Array(MAX_NOTE_BYTES);
  bytes[0] = code.length;
  encoder.encodeInto(code, bytes.subarray(1));
  // encodeInto stops before a character that does not fit: the cut text stays valid UTF-8.
  const { written } = encoder.encodeInto(text, bytes.subarray(1 + code.length));
  return bytes.subarray(0, 1 + code.length + written);
}

function decodeNote(type: FrameType, payload: Uint8Array): { code: string; text: string } {
  const codeBytes = payload[0] ?? 0;
  const code = String.fromCharCode(...payload.subarray(1, 1 + codeBytes));
  if (code.length !== codeBytes || codeBytes > MAX_CODE_BYTES || !NAME.test(code)) {
    throw protocolError(`a ${type} frame without a proper code`);
  }
  try {
    return { code, text: decoder.decode(payload.subarray(1 + codeBytes)) };
  } catch {
    throw protocolError(`a ${type} frame whose text is not UTF-8`);
  }
}
