import { assert, assertEquals, assertMatch, assertStringIncludes, assertThrows } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import { derivedPublicKey } from "../../../src/link/certificate.ts";
import {
  checkTicketAge,
  decodeTicket,
  encodeTicket,
  makeSecret,
  MAX_TICKET_LENGTH,
  type Ticket,
} from "../../../src/link/ticket.ts";
import { chooseSeed, randomBytes, seededRandom } from "../wire/memory_link.ts";
import { SECRET } from "./fixture.ts";

const PAGE = new URL("../../../docs/protocol.md", import.meta.url);
const EXPIRES_AT_MS = Date.UTC(2026, 0, 2, 3, 4, 5);

function makeTicket(changes: Partial<Ticket> = {}): Ticket {
  return {
    address: { host: "192.0.2.7", port: 4711 },
    server: { kind: "key", publicKey: derivedPublicKey(SECRET) },
    secret: SECRET,
    expiresAtMs: EXPIRES_AT_MS,
    migrationId: "m-7f3a9c21",
    ...changes,
  };
}

/** Decodes what must not be a ticket: gives the error, which must not show any of it. */
function refuse(text: string): AgentError {
  const error = assertThrows(() => decodeTicket(text), AgentError);
  assertEquals([error.code, error.kind], ["bad_ticket", "usage"]);
  const shown = `${error.message} ${error.hint} ${error.cause}`;
  for (let at = 5; at + 8 <= text.length; at += 8) assert(!shown.includes(text.slice(at, at + 8)));
  return error;
}

/** A body of the test's own with a right checksum. */
async function seal(body: Uint8Array): Promise<string> {
  const prefixed = Uint8Array.of(...new TextEncoder().encode("mat1_"), ...body);
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", prefixed));
  const whole = Uint8Array.of(...body, ...hash.subarray(0, 8));
  return "mat1_" + whole.toBase64({ alphabet: "base64url", omitPadding: true });
}

function bodyOf(ticket: Ticket): Uint8Array {
  return Uint8Array.fromBase64(encodeTicket(ticket).slice(5), { alphabet: "base64url" })
    .slice(0, -8);
}

Deno.test("tickets of every kind come back as they were", () => {
  const long = "a".repeat(63);
  const tickets: Ticket[] = [
    makeTicket(),
    makeTicket({ address: { host: "::1", port: 1 } }),
    makeTicket({ server: { kind: "authority" }, address: { host: "host-1.example", port: 65535 } }),
    makeTicket({ address: { host: "fe80::1%eth0", port: 80 }, expiresAtMs: 0 }),
    makeTicket({
      address: { host: [long, long, long, long].join(".").slice(0, 255), port: 80 },
      migrationId: "x".repeat(64),
      secret: makeSecret(),
    }),
  ];
  for (const ticket of tickets) {
    const text = encodeTicket(ticket);
    assertMatch(text, /^mat1_[A-Za-z0-9_-]+$/);
    assert(text.length <= MAX_TICKET_LENGTH);
    assertEquals(decodeTicket(`  ${text}\n`), ticket);
  }
});

Deno.test("the ticket of the specification", async () => {
  const page = await Deno.readTextFile(PAGE);
  const written = /^```text ticket=example\n(.*)\n```$/m.exec(page)?.[1];
  assertEquals(written, encodeTicket(makeTicket()));
});

Deno.test("a ticket cut short anywhere, or with any character changed, is refused", () => {
  const text = encodeTicket(makeTicket());
  for (let length = 0; length < text.length; length++) refuse(text.slice(0, length));
  for (let at = 0; at < text.length; at++) {
    const other = text[at] === "A" ? "B" : "A";
    refuse(text.slice(0, at) + other + text.slice(at + 1));
  }
});

Deno.test("what is no ticket is told by what it is", () => {
  const text = encodeTicket(makeTicket());
  const cases: [string, string][] = [
    ["", "empty"],
    ["   \n", "empty"],
    ["192.0.2.7:4711", "does not begin with 'mat1_'"],
    [text.slice(0, 50) + "\n" + text.slice(50), "line breaks"],
    [`"${text}"`, "does not begin"],
    [text.replace("mat1", "mat2"), "version 2"],
    [text + "A", "checksum"],
    [text + text.slice(5), "checksum"],
    ["mat1_" + "A".repeat(MAX_TICKET_LENGTH), "longer"],
    ["mat1_A", "not complete"],
    ["mat1_AAAA", "checksum"],
  ];
  for (const [wrong, says] of cases) assertStringIncludes(refuse(wrong).message, says);
});

Deno.test("a ticket whose checksum is right is checked all the same", async () => {
  const good = bodyOf(makeTicket({ server: { kind: "authority" } }));
  const change = (at: number, ...bytes: number[]) => {
    const body = good.slice();
    body.set(bytes, at);
    return body;
  };
  const port = 1 + 8 + 32;
  const host = port + 3;
  const badKey = bodyOf(makeTicket());
  badKey[port] = 2;
  const cases: [Uint8Array, string][] = [
    [change(0, 2), "unknown kind"],
    [change(1, 0xff), "expiry"],
    [change(port, 0, 0), "port"],
    [change(host, 0x2f), "host"],
    [change(host, 0), "host"],
    [change(port + 2, 255), "too early"],
    [change(good.length - 1, 0x2f), "id"],
    [badKey, "key"],
    [Uint8Array.of(...good, 0), "more in it"],
    [good.subarray(0, 20), "too early"],
  ];
  for (const [body, says] of cases) assertStringIncludes(refuse(await seal(body)).message, says);
});

Deno.test("random bodies end in a ticket or in the project's own error", async () => {
  const random = seededRandom(chooseSeed());
  for (let i = 0; i < 300; i++) {
    const body = randomBytes(Math.floor(random() * 300), random);
    if (random() < 0.8) body[0] = Math.floor(random() * 2);
    if (random() < 0.8) body.fill(0, 1, 4);
    try {
      decodeTicket(await seal(body));
    } catch (error) {
      assert(error instanceof AgentError, `${error}`);
    }
  }
});

Deno.test("a ticket's age is judged with patience for the clocks", () => {
  const ticket = makeTicket();
  checkTicketAge(ticket, EXPIRES_AT_MS + 5 * 60_000);
  const error = assertThrows(
    () => checkTicketAge(ticket, EXPIRES_AT_MS + 5 * 60_000 + 1),
    AgentError,
  );
  assertEquals([error.code, error.kind], ["ticket_expired", "refused"]);
  assertStringIncludes(error.message, "2026-01-02T03:04:05");
});
