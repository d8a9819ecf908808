// What is read before the peer has proved anything: tickets (which a person may have mistyped) and the
// messages of the proof.

import { createHash } from "node:crypto";
import { AgentError } from "../../../src/base/errors.ts";
import { proveToReceiver, verifySender } from "../../../src/link/proof.ts";
import { SecretBook } from "../../../src/link/secrets.ts";
import {
  decodeTicket,
  encodeTicket,
  MAX_TICKET_LENGTH,
  type Ticket,
} from "../../../src/link/ticket.ts";
import { join, mutateBytes } from "../mutate_bytes.ts";
import { mutateText } from "../mutate_json.ts";
import { PIECES, ScriptedLink } from "../scripted_link.ts";
import { Broken, holds, type Target } from "../target.ts";

const PREFIX = "mat1_";
const CHECKSUM_BYTES = 8;
const BASE64: { alphabet: "base64url"; omitPadding: true } = {
  alphabet: "base64url",
  omitPadding: true,
};

const COMMON = { secret: new Uint8Array(32).fill(7), expiresAtMs: 1_800_000_000_000 };
const TICKETS = ([
  {
    ...COMMON,
    address: { host: "host.example", port: 4444 },
    server: { kind: "key", publicKey: new Uint8Array(65).fill(4) },
    migrationId: "a1a498a8-e716-4a66-b676-aa6911149d11",
  },
  {
    ...COMMON,
    address: { host: "fe80::1%eth0", port: 65535 },
    server: { kind: "authority" },
    migrationId: "m_1",
  },
  {
    ...COMMON,
    address: { host: "127.0.0.1", port: 65535 },
    server: { kind: "authority" },
    migrationId: "m_1",
  },
] satisfies Ticket[]).map(encodeTicket);
const BODIES = TICKETS.map((ticket) =>
  Uint8Array.fromBase64(ticket.slice(PREFIX.length), { alphabet: "base64url" })
    .slice(0, -CHECKSUM_BYTES)
);

export const TICKET_TARGET: Target<string> = {
  name: "ticket",
  share: 90,
  make(random) {
    if (random.oneIn(4)) return mutateText(random, random.pick(TICKETS));
    // Past the checksum, which anybody can compute.
    const body = mutateBytes(random, { bytes: random.pick(BODIES), donors: BODIES });
    const sum = createHash("sha256").update(PREFIX).update(body).digest();
    return PREFIX + join(body, sum.subarray(0, CHECKSUM_BYTES)).toBase64(BASE64);
  },
  run(text) {
    let ticket: Ticket;
    try {
      ticket = decodeTicket(text);
    } catch (error) {
      // Every part of a ticket may be the secret.
      const told = error instanceof AgentError ? error.message + error.hint : "";
      holds(text.length < 12 || !told.includes(text.slice(5, 12)), () => `quoted: ${told}`);
      throw error;
    }
    holds(text.trim().length <= MAX_TICKET_LENGTH, () => "longer than a ticket");
    const again = decodeTicket(encodeTicket(ticket));
    holds(
      describe(ticket) === describe(again),
      () => `${describe(ticket)} became ${describe(again)}`,
    );
  },
};

function describe(ticket: Ticket): string {
  return JSON.stringify(ticket);
}

const never = new AbortController().signal;
const BINDING = new Uint8Array(32);
const HELLO = join(new TextEncoder().encode("MIGAUTH"), Uint8Array.of(1), new Uint8Array(32));
const SENDER_SAYS = join(HELLO, new Uint8Array(32).fill(9));
const RECEIVER_SAYS = join(HELLO, Uint8Array.of(1), new Uint8Array(32).fill(9));

/** The first byte says which side this is and how the bytes come; the rest is the peer's. */
export const PROOF_TARGET: Target<Uint8Array> = {
  name: "proof",
  share: 10,
  make(random) {
    const asReceiver = random.oneIn(2);
    const bytes = asReceiver ? SENDER_SAYS : RECEIVER_SAYS;
    const how = random.below(PIECES.length) * 2 + (asReceiver ? 0 : 1);
    return join(Uint8Array.of(how), mutateBytes(random, { bytes, donors: [HELLO, SENDER_SAYS] }));
  },
  async run(bytes) {
    const how = bytes[0] ?? 0;
    const link = new ScriptedLink(bytes.subarray(1), PIECES[(how >> 1) % PIECES.length]!);
    const candidate = { secret: COMMON.secret, migrationId: "m" };
    if (how % 2) {
      await proveToReceiver(link, { ...candidate, binding: BINDING, signal: never });
    } else {
      const book = new SecretBook();
      book.add({ ...candidate, expiresAtMs: Infinity, once: true });
      const beforeRefusal = () => Promise.resolve();
      await verifySender(link, { book, binding: BINDING, beforeRefusal, signal: never });
    }
    throw new Broken("believed a peer that does not know the secret");
  },
};
