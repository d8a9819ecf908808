// Where the parts of xl's migration stream begin and end, as far as a relay must know it: xl's own
// header, which names the domain's configuration; the memory; and the END after which the receiving
// libxl starts the device model. Bytes are passed on, not kept.
// Specification: Xen's docs/specs/libxl-migration-stream and libxc-migration-stream.

import { conversationError } from "./conversation.ts";

const MAGIC = new TextEncoder().encode("Xen saved domain, xl format\n \0 \r");
const XL_HEADER_BYTES = 48;
const BYTE_ORDER = 0x01020304;
/** JSON configuration, and libxl's stream in its second version: the only ones that are known. */
const MANDATORY_FLAGS = 3;
const MAX_CONFIG_BYTES = 1 << 20;
const MAX_RECORD_BYTES = 128 << 20;
const LIBXL_HEADER_BYTES = 16;
const LIBXC_HEADERS_BYTES = 24 + 16;
const RECORD_BYTES = 8;
const LIBXL_CONTEXT = 1;
const PAGE_DATA = 1;

export type Piece =
  /** xl's header with the configuration. */
  | { kind: "header"; bytes: Uint8Array }
  | { kind: "data"; bytes: Uint8Array }
  /** The record that ends libxl's stream. */
  | { kind: "end"; bytes: Uint8Array }
  /** What follows it. */
  | { kind: "after"; bytes: Uint8Array };

type Place = "xl" | "config" | "libxl" | "record" | "libxc" | "page_record" | "after";
const SIZES: Record<Exclude<Place, "config" | "after">, number> = {
  xl: XL_HEADER_BYTES,
  libxl: LIBXL_HEADER_BYTES,
  record: RECORD_BYTES,
  libxc: LIBXC_HEADERS_BYTES,
  page_record: RECORD_BYTES,
};

export class Framing {
  /** The domain's memory is on its way: from now on libxl leaves the device model alone. */
  memoryBegan = false;
  #place: Place = "xl";
  /** Bytes of a body that are still to come. */
  #skip = 0;
  #configBytes = 0;
  #held: Uint8Array<ArrayBuffer> = new Uint8Array(0);
  #header: Uint8Array<ArrayBuffer> = new Uint8Array(0);

  /** Takes the chunk apart. The pieces together are the bytes of all chunks, in order. */
  *feed(chunk: Uint8Array): Generator<Piece> {
    let at = 0;
    while (at < chunk.length) {
      if (this.#place === "after") {
        yield { kind: "after", bytes: chunk.subarray(at) };
        return;
      }
      if (this.#skip > 0) {
        const bytes = chunk.subarray(at, at + this.#skip);
        this.#skip -= bytes.length;
        at += bytes.length;
        yield { kind: "data", bytes };
        continue;
      }
      const size = this.#place === "config" ? this.#configBytes : SIZES[this.#place];
      const part = chunk.subarray(at, at + size - this.#held.length);
      at += part.length;
      this.#held = join(this.#held, part);
      if (this.#held.length < size) return;
      const bytes = this.#held;
      this.#held = new Uint8Array(0);
      const piece = this.#take(bytes);
      if (piece) yield piece;
    }
  }

  #take(bytes: Uint8Array<ArrayBuffer>): Piece | null {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    switch (this.#place) {
      case "xl":
        this.#checkHeader(bytes, view);
        this.#header = bytes;
        this.#configBytes = view.getUint32(44, true);
        this.#place = this.#configBytes > 0 ? "config" : "libxl";
        return this.#configBytes > 0 ? null : { kind: "header", bytes };
      case "config":
        this.#place = "libxl";
        return { kind: "header", bytes: join(this.#header, bytes) };
      case "libxl":
        if (new TextDecoder().decode(bytes.subarray(0, 8)) !== "LibxlFmt") {
          throw conversationError("no libxl stream follows xl's header");
        }
        if (view.getUint32(8) !== 2) {
          throw conversationError(`libxl's stream has version ${view.getUint32(8)}, not 2`);
        }
        this.#place = "record";
        return { kind: "data", bytes };
      case "record":
        return this.#takeRecord(bytes, view);
      case "libxc":
        this.#place = "page_record";
        return { kind: "data", bytes };
      default:
        return this.#takePageRecord(bytes, view);
    }
  }

  #takeRecord(bytes: Uint8Array, view: DataView): Piece {
    const type = view.getUint32(0, true);
    if (type === 0) {
      this.#place = "after";
      return { kind: "end", bytes };
    }
    this.#skip = bodyBytes(view);
    if (type === LIBXL_CONTEXT) {
      this.#place = "libxc";
    }
    return { kind: "data", bytes };
  }

  #takePageRecord(bytes: Uint8Array, view: DataView): Piece {
    const type = view.getUint32(0, true);
    this.#skip = bodyBytes(view);
    if (type === PAGE_DATA) this.memoryBegan = true;
    if (type === 0) this.#place = "record";
    return { kind: "data", bytes };
  }

  #checkHeader(bytes: Uint8Array, view: DataView): void {
    if (!MAGIC.every((byte, at) => bytes[at] === byte)) {
      throw conversationError("the stream does not begin as xl's does");
    }
    if (view.getUint32(32, true) !== BYTE_ORDER) throw conversationError("foreign byte order");
    if (view.getUint32(36, true) !== MANDATORY_FLAGS) {
      throw conversationError(`xl's header has the flags ${view.getUint32(36, true)}, not 3`);
    }
    const length = view.getUint32(44, true);
    if (length > MAX_CONFIG_BYTES) {
      throw conversationError(`xl's header has ${length} bytes of options`);
    }
  }
}

/** xl's header for another configuration (JSON). */
export function makeHeader(config: string): Uint8Array {
  const json = new TextEncoder().encode(config + "\0");
  const bytes = new Uint8Array(XL_HEADER_BYTES + 4 + json.length);
  const view = new DataView(bytes.buffer);
  bytes.set(MAGIC);
  view.setUint32(32, BYTE_ORDER, true);
  view.setUint32(36, MANDATORY_FLAGS, true);
  view.setUint32(44, 4 + json.length, true);
  view.setUint32(48, json.length, true);
  bytes.set(json, 52);
  return bytes;
}

function bodyBytes(view: DataView): number {
  const length = view.getUint32(4, true);
  if (length > MAX_RECORD_BYTES) throw conversationError(`a record has ${length} bytes`);
  return Math.ceil(length / 8) * 8;
}

function join(a: Uint8Array, b: Uint8Array): Uint8Array<ArrayBuffer> {
  const whole = new Uint8Array(a.length + b.length);
  whole.set(a);
  whole.set(b, a.length);
  return whole;
}
