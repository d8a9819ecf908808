// The first message of a TLS client, looked at before TLS sees it: Deno's TLS takes version 1.2 too
// and cannot be told not to. Of the message only the list of versions matters (RFC 8446, 4.2.1): a
// server that knows 1.3 uses it whenever the client offers it. Hostile bytes: all lengths are checked.

import { AgentError, type AgentErrorOptions } from "../base/errors.ts";
import { type Link, readExactly } from "./link.ts";

/** A record's header: type, version, length. */
const HEADER_BYTES = 5;
const HANDSHAKE = 0x16;
/** The longest record that TLS allows without encryption. */
const MAX_RECORD_BYTES = 16384;
const CLIENT_HELLO = 1;
const SUPPORTED_VERSIONS = 43;
const TLS_1_3 = 0x0304;

/** What a TLS client understands as "not this version" (alert 70) and "not TLS" (alert 10). */
const ALERT_VERSION = Uint8Array.of(0x15, 3, 3, 0, 2, 2, 70);
const ALERT_UNEXPECTED = Uint8Array.of(0x15, 3, 3, 0, 2, 2, 10);

/** A client that is not to be served, and the alert that says so. */
export class HelloRefused extends AgentError {
  readonly alert: Uint8Array;

  constructor(code: string, message: string, options: AgentErrorOptions & { alert: Uint8Array }) {
    super(code, message, { kind: "refused", ...options });
    this.alert = options.alert;
  }
}

/**
 * Reads the client's first record and gives it, whole, when it offers TLS 1.3. Throws HelloRefused
 * (`peer_without_tls`, `tls_version`, `tls_malformed`), `link_ended`, or the signal's reason.
 */
export async function readClientHello(link: Link, signal: AbortSignal): Promise<Uint8Array> {
  const header = new Uint8Array(HEADER_BYTES);
  await readExactly(link, header.subarray(0, 1), signal);
  if (header[0] !== HANDSHAKE) {
    throw new HelloRefused("peer_without_tls", "The peer does not speak TLS", {
      hint: "--insecure must be given on both sides or on neither.",
      alert: ALERT_UNEXPECTED,
    });
  }
  await readExactly(link, header.subarray(1), signal);
  const length = header[3]! << 8 | header[4]!;
  if (length === 0 || length > MAX_RECORD_BYTES) throw malformed(`a record of ${length} bytes`);
  const record = new Uint8Array(HEADER_BYTES + length);
  record.set(header);
  await readExactly(link, record.subarray(HEADER_BYTES), signal);
  if (!offersTls13(record.subarray(HEADER_BYTES))) {
    throw new HelloRefused("tls_version", "The peer does not offer TLS 1.3", {
      hint: "Use the same version of migrate-agent on both hosts.",
      alert: ALERT_VERSION,
    });
  }
  return record;
}

function offersTls13(message: Uint8Array): boolean {
  const hello = new Reader(message);
  if (hello.number(1) !== CLIENT_HELLO) throw malformed("no client hello");
  const body = new Reader(hello.bytes(hello.number(3)));
  body.bytes(2 + 32); // version of old, random
  body.bytes(body.number(1)); // session id
  body.bytes(body.number(2)); // cipher suites
  body.bytes(body.number(1)); // compression
  if (body.atEnd) return false; // before there were extensions
  const extensions = new Reader(body.bytes(body.number(2)));
  while (!extensions.atEnd) {
    const type = extensions.number(2);
    const value = extensions.bytes(extensions.number(2));
    if (type !== SUPPORTED_VERSIONS) continue;
    const list = new Reader(value);
    const versions = new Reader(list.bytes(list.number(1)));
    while (!versions.atEnd) if (versions.number(2) === TLS_1_3) return true;
  }
  return false;
}

/** Takes big-endian numbers and bytes from the front, never more than there are. */
class Reader {
  readonly #bytes: Uint8Array;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  get atEnd(): boolean {
    return this.#at === this.#bytes.length;
  }

  bytes(count: number): Uint8Array {
    const end = this.#at + count;
    if (end > this.#bytes.length) throw malformed("a length beyond its end");
    const part = this.#bytes.subarray(this.#at, end);
    this.#at = end;
    return part;
  }

  number(size: number): number {
    return this.bytes(size).reduce((value, byte) => value * 256 + byte, 0);
  }
}

function malformed(what: string): HelloRefused {
  return new HelloRefused("tls_malformed", `The peer's first TLS message has ${what}`, {
    alert: ALERT_UNEXPECTED,
  });
}
