// The ticket: all that a sender needs to reach one receiver and to prove that it was invited, as one
// string for a shell, a file or a variable. Whoever has it can be the sender, so nothing here ever
// puts it, or a part of it, into a message. Knows nothing of files and connections.
// Specification: docs/protocol.md, "The ticket".

import { createHash } from "node:crypto";
import { AgentError, type AgentErrorOptions } from "../base/errors.ts";
import { type Address, formatAddress, parseAddress } from "./address.ts";
import { PUBLIC_KEY_BYTES } from "./certificate.ts";

export const SECRET_BYTES = 32;
/** The longest ticket, in characters. */
export const MAX_TICKET_LENGTH = 640;

const PREFIX = "mat1_";
const CHECKSUM_BYTES = 8;
const FORM = /^mat(\d{1,4})_([A-Za-z0-9_-]+)$/;
const ID = /^[A-Za-z0-9_-]{1,64}$/;

/** How the sender knows the receiver. */
export type TicketServer =
  /** By the key of a certificate that the receiver made itself. */
  | { kind: "key"; publicKey: Uint8Array }
  /** By the operator's authority (`--tls-ca`). */
  | { kind: "authority" };

const KINDS = ["key", "authority"] as const;

export interface Ticket {
  /** Where the sender reaches the receiver; never port 0. */
  address: Address;
  server: TicketServer;
  /** 32 random bytes. */
  secret: Uint8Array;
  /** By the receiver's clock, whole milliseconds since 1970. */
  expiresAtMs: number;
  migrationId: string;
}

/** A new one-time secret. */
export function makeSecret(): Uint8Array<ArrayBuffer> {
  return crypto.getRandomValues(new Uint8Array(SECRET_BYTES));
}

/** The string that `decodeTicket` reads. */
export function encodeTicket(ticket: Ticket): string {
  const { address, server, secret, expiresAtMs, migrationId } = ticket;
  const host = new TextEncoder().encode(address.host);
  const id = new TextEncoder().encode(migrationId);
  const key = server.kind === "key" ? server.publicKey : new Uint8Array();
  const body = new Uint8Array(1 + 8 + SECRET_BYTES + key.length + 2 + 2 + host.length + id.length);
  const view = new DataView(body.buffer);
  let at = 0;
  const put = (bytes: Uint8Array) => {
    body.set(bytes, at);
    at += bytes.length;
  };
  view.setUint8(at++, KINDS.indexOf(server.kind));
  view.setBigUint64(at, BigInt(expiresAtMs));
  at += 8;
  put(secret);
  put(key);
  view.setUint16(at, address.port);
  at += 2;
  put(Uint8Array.of(host.length));
  put(host);
  put(Uint8Array.of(id.length));
  put(id);
  const text = new Uint8Array([...body, ...checksum(body)]);
  return PREFIX + text.toBase64({ alphabet: "base64url", omitPadding: true });
}

/**
 * Reads a ticket and checks all of it but its age (`checkTicketAge`).
 * @throws AgentError `bad_ticket`, kind "usage", which says what is wrong and quotes nothing
 */
export function decodeTicket(text: string): Ticket {
  const trimmed = text.trim();
  if (trimmed === "") throw badTicket("it is empty");
  if (trimmed.length > MAX_TICKET_LENGTH) throw badTicket("it is longer than any ticket is");
  const [, version, encoded] = FORM.exec(trimmed) ?? [];
  if (version === undefined || encoded === undefined) {
    throw badTicket(
      trimmed.startsWith("mat")
        ? "there are characters in it that no ticket has, such as blanks or line breaks"
        : `it does not begin with '${PREFIX}'`,
    );
  }
  if (version !== "1") {
    throw badTicket(`its form has version ${version}, and this program reads version 1`, {
      hint: "Use the same version of migrate-agent on both hosts.",
    });
  }
  const bytes = decodeBase64(encoded);
  const body = bytes.subarray(0, -CHECKSUM_BYTES);
  const sum = bytes.subarray(-CHECKSUM_BYTES);
  if (body.length === 0 || !checksum(body).every((byte, i) => byte === sum[i])) {
    throw badTicket("its checksum is wrong: it was changed, or is not complete");
  }
  return decodeBody(body);
}

/** How far the sender's clock may be ahead of the receiver's, which alone decides. */
const CLOCK_SKEW_MS = 5 * 60_000;

/** Spares the way to a receiver that will refuse. Throws `ticket_expired`, kind "refused". */
export function checkTicketAge(ticket: Ticket, nowMs: number): void {
  if (nowMs <= ticket.expiresAtMs + CLOCK_SKEW_MS) return;
  const when = new Date(ticket.expiresAtMs).toISOString();
  throw new AgentError("ticket_expired", `The ticket was valid until ${when}`, {
    kind: "refused",
    hint: "Start 'migrate-agent receive' again for a new ticket, and compare the hosts' clocks.",
  });
}

function decodeBody(body: Uint8Array): Ticket {
  const view = new DataView(body.buffer, body.byteOffset, body.length);
  let at = 0;
  const take = (count: number): number => {
    if (at + count > body.length) throw badTicket("it ends too early");
    at += count;
    return at - count;
  };
  const takeBytes = (count: number) => body.slice(take(count), at);
  const takeText = () => String.fromCharCode(...takeBytes(view.getUint8(take(1))));

  const kind = KINDS[view.getUint8(take(1))];
  if (kind === undefined) throw badTicket("it is of an unknown kind");
  const expiresAt = view.getBigUint64(take(8));
  const secret = takeBytes(SECRET_BYTES);
  const server: TicketServer = kind === "key"
    ? { kind, publicKey: takeBytes(PUBLIC_KEY_BYTES) }
    : { kind };
  const port = view.getUint16(take(2));
  const host = takeText();
  const migrationId = takeText();
  if (at < body.length) throw badTicket("there is more in it than belongs there");

  if (expiresAt > 8.64e15) throw badTicket("its expiry is no time"); // the last one that Date knows
  if (server.kind === "key" && server.publicKey[0] !== 4) throw badTicket("its key is no key");
  if (port === 0) throw badTicket("its port is 0");
  if (!ID.test(migrationId)) throw badTicket("its migration id is no id");
  return {
    address: checkAddress({ host, port }),
    server,
    secret,
    expiresAtMs: Number(expiresAt),
    migrationId,
  };
}

function checkAddress(address: Address): Address {
  try {
    return parseAddress(formatAddress(address));
  } catch (error) {
    // Not as the cause: its message quotes.
    if (error instanceof AgentError) throw badTicket("its host is no name or IP address");
    throw error;
  }
}

function decodeBase64(text: string): Uint8Array {
  try {
    return Uint8Array.fromBase64(text, { alphabet: "base64url", lastChunkHandling: "loose" });
  } catch (error) {
    if (error instanceof SyntaxError) throw badTicket("it is not complete");
    throw error;
  }
}

/** Of the prefix too, so that a later version cannot be taken for this one. */
function checksum(body: Uint8Array): Uint8Array {
  const hash = createHash("sha256").update(PREFIX).update(body).digest();
  return hash.subarray(0, CHECKSUM_BYTES);
}

function badTicket(detail: string, options: AgentErrorOptions = {}): AgentError {
  return new AgentError("bad_ticket", `Cannot read the ticket: ${detail}`, {
    kind: "usage",
    hint: "Give it exactly as 'migrate-agent receive' printed it, on one line.",
    ...options,
  });
}
