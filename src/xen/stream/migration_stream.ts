// All that `xl migrate` sends: xl's header with the domain's configuration, libxl's stream with the
// memory and the device model's state in it, and, once the other side has everything, the handover.
// Specification: Xen's docs/specs/libxl-migration-stream; docs/xen.md, "The conversation".

import { PERMISSION } from "../conversation.ts";
import {
  BYTE_ORDER,
  END,
  expectBytes,
  LIBXC_CONTEXT,
  LIBXL_IDENT,
  LIBXL_VERSION,
  MANDATORY_FLAGS,
  MAX_OPTIONS_BYTES,
  RECORD_HEADER_BYTES,
  ruleOf,
  streamError,
  XL_HEADER_BYTES,
  XL_MAGIC,
} from "./format.ts";
import { readLibxcImage } from "./libxc_image.ts";
import { Progress } from "./progress.ts";
import { extend, give, pass, type Piece, StepReader, type Steps, take } from "./steps.ts";

const LIBXL_HEADER_BYTES = 16;

export type StreamKind =
  /** xl's header with the configuration, whole. Another one may take its place (`makeHeader`). */
  | "header"
  /** The record that ends libxl's stream: who gets it starts the device model. */
  | "end"
  /** "You are cleared to unpause", whole: who gets it owns the guest. */
  | "permission";

export type StreamPiece = Piece<StreamKind>;

type Place = "header" | "stream" | "ended" | "permitted";

export class MigrationStream {
  readonly progress: Progress = new Progress();
  readonly #reader: StepReader<StreamKind> = new StepReader(this.#read());
  #place: Place = "header";

  /**
   * Takes the chunk apart into pieces, which together are the bytes of all chunks in order. Whoever
   * takes one piece and waits before the next holds back the rest. Contents are passed on as they come;
   * headers when they are complete and right. A piece is valid until the next is asked for.
   * @throws AgentError `xen_stream_malformed`, `_version`, `_record` (must be understood and is not),
   *   `_limit`; then the stream is of no use any more, and every further chunk throws it again
   */
  feed(chunk: Uint8Array): Generator<StreamPiece, void> {
    return this.#reader.feed(chunk);
  }

  /** Bytes up to here were understood. */
  get offset(): number {
    return this.#reader.offset;
  }

  /**
   * To be called when nothing more comes. libxl takes the end of its input for the end of the stream,
   * so the difference must be made here.
   * @throws AgentError `xen_stream_truncated` unless libxl's END has come
   */
  checkEnded(): void {
    if (this.#place === "ended" || this.#place === "permitted") return;
    const where = this.#place === "header" ? "xl's header" : "libxl's stream";
    throw streamError("truncated", `its end, in the middle of ${where}`, this.#reader.offset);
  }

  *#read(): Steps<StreamKind, never> {
    yield* readXlHeader();
    this.#place = "stream";
    yield* readLibxlHeader();
    for (let hasImage = false;;) {
      const { view, offset } = yield* take<StreamKind>(RECORD_HEADER_BYTES);
      const type = view.getUint32(0, true);
      const lengthBytes = view.getUint32(4, true);
      const { name } = ruleOf("libxl", { type, lengthBytes, offset });
      if (hasImage ? type === LIBXC_CONTEXT : type === END) {
        const many = hasImage ? "a second" : "its END without a";
        throw streamError("malformed", `${many} libxl record LIBXC_CONTEXT`, offset);
      }
      this.progress.countRecord("libxl", name);
      if (type === END) break;
      if (type === LIBXC_CONTEXT) {
        hasImage = true;
        yield* readLibxcImage<StreamKind>(this.progress);
      } else yield* pass<StreamKind>(Math.ceil(lengthBytes / 8) * 8);
    }
    this.#place = "ended";
    yield* give<StreamKind>("end");
    const permission = expectBytes(
      PERMISSION,
      "something else than the permission to run the guest",
    );
    yield* take<StreamKind>(PERMISSION.length, permission);
    this.#place = "permitted";
    yield* give<StreamKind>("permission");
    for (;;) {
      const { offset } = yield* take<StreamKind>(1);
      throw streamError("malformed", "more after the last message", offset);
    }
  }
}

function* readXlHeader(): Steps<StreamKind, void> {
  const magic = expectBytes(XL_MAGIC, "something else than the header that xl writes");
  const { view, offset } = yield* take<StreamKind>(XL_HEADER_BYTES, magic);
  if (view.getUint32(32, true) !== BYTE_ORDER) {
    throw streamError("version", "a header in big-endian byte order", offset);
  }
  // The optional flags may be ignored, and xl does; there are none up to Xen 4.20.
  const flags = view.getUint32(36, true);
  if (flags !== MANDATORY_FLAGS) {
    const what = `a header with the flags 0x${flags.toString(16)} (known are 0x${MANDATORY_FLAGS})`;
    throw streamError("version", what, offset);
  }
  const optionsBytes = view.getUint32(44, true);
  if (optionsBytes < 5 || optionsBytes > MAX_OPTIONS_BYTES) {
    const what = `a header with ${optionsBytes} bytes of options (5 to ${MAX_OPTIONS_BYTES})`;
    throw streamError("limit", what, offset);
  }
  const whole = yield* extend<StreamKind>(optionsBytes);
  const configBytes = whole.view.getUint32(XL_HEADER_BYTES, true);
  const lastByte = whole.bytes[XL_HEADER_BYTES + 4 + configBytes - 1];
  if (configBytes === 0 || configBytes > optionsBytes - 4 || lastByte !== 0) {
    const what =
      `a configuration of ${configBytes} bytes that does not end in the header's options`;
    throw streamError("malformed", what, offset);
  }
  yield* give<StreamKind>("header");
}

function* readLibxlHeader(): Steps<StreamKind, void> {
  const ident = expectBytes(LIBXL_IDENT, "something else than libxl's stream");
  const { view, offset } = yield* take<StreamKind>(LIBXL_HEADER_BYTES, ident);
  const version = view.getUint32(8);
  if (version !== LIBXL_VERSION) {
    const what = `libxl's stream in version ${version} (known is ${LIBXL_VERSION})`;
    throw streamError("version", what, offset);
  }
  // Bit 0 is the byte order, bit 1 a conversion from what Xen 4.5 wrote.
  const options = view.getUint32(12);
  if ((options & 3) !== 0) {
    throw streamError(
      "version",
      `libxl's stream with the options 0x${options.toString(16)}`,
      offset,
    );
  }
}

/** xl's header for another configuration (JSON). */
export function makeHeader(config: string): Uint8Array {
  const json = new TextEncoder().encode(config + "\0");
  const bytes = new Uint8Array(XL_HEADER_BYTES + 4 + json.length);
  const view = new DataView(bytes.buffer);
  bytes.set(XL_MAGIC);
  view.setUint32(32, BYTE_ORDER, true);
  view.setUint32(36, MANDATORY_FLAGS, true);
  view.setUint32(44, 4 + json.length, true);
  view.setUint32(48, json.length, true);
  bytes.set(json, XL_HEADER_BYTES + 4);
  return bytes;
}
