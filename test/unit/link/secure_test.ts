// The limits and the proof around a connection, from its first byte to the link that the wire gets.

import { assert, assertEquals, assertThrows } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import { LIMITS } from "../../../src/link/attempts.ts";
import { derivedPublicKey } from "../../../src/link/certificate.ts";
import { HELLO_BYTES } from "../../../src/link/proof.ts";
import { targetOfSecret, targetOfTicket } from "../../../src/link/secure.ts";
import { SecretBook } from "../../../src/link/secrets.ts";
import type { Ticket, TicketServer } from "../../../src/link/ticket.ts";
import { chooseSeed, MemoryLink, randomBytes, seededRandom, settle } from "../wire/memory_link.ts";
import { hello, prove, SECRET, speak, TestReceiver } from "./fixture.ts";

Deno.test("a sender's bytes cut off anywhere", async () => {
  for (let length = 0; length < HELLO_BYTES + 32; length++) {
    const receiver = new TestReceiver();
    const connection = receiver.connect();
    const { peer } = connection;
    const [relayHere, relayThere] = MemoryLink.pair();
    prove(relayThere);
    await settle();
    const bytes = relayThere.written;
    await peer.write(bytes.subarray(0, Math.min(length, HELLO_BYTES)));
    if (length > HELLO_BYTES) {
      await settle();
      const answer = new Uint8Array(HELLO_BYTES);
      await peer.read(answer);
      await relayHere.write(answer);
      await settle();
      await peer.write(relayThere.written.slice(HELLO_BYTES, length));
    }
    assertEquals(await receiver.codeOf(connection), "link_ended", `after ${length} bytes`);
    assertEquals(receiver.secrets.candidates().length, 1);
    await prove(receiver.connect().peer); // the ticket is as good as before
    relayHere.close();
  }
});

Deno.test("random garbage ends in a refusal, in bounded time", async () => {
  const random = seededRandom(chooseSeed());
  const quick = { maxFailuresPerSource: Infinity, maxFailures: Infinity };
  const receiver = new TestReceiver({ limits: quick });
  for (let i = 0; i < 200; i++) {
    const { peer, outcome } = receiver.connect();
    const bytes = randomBytes(Math.floor(random() * 200), random);
    if (random() < 0.5) bytes.set(hello().subarray(0, bytes.length));
    await peer.write(bytes);
    await settle();
    await receiver.clock.advance(LIMITS.handshakeMs);
    const error = await outcome;
    assert(error instanceof AgentError);
    assert(["refused", "link"].includes(error.kind), error.code);
  }
  assertEquals(receiver.clock.count, 0);
});

Deno.test("a refusal costs its delay, and the peer cannot shorten it", async () => {
  const receiver = new TestReceiver();
  const connection = receiver.connect();
  const { peer, here } = connection;
  prove(peer, { secret: new Uint8Array(32) });
  await receiver.clock.advance(LIMITS.delayMs - 1);
  assertEquals([here.written.length, here.closed], [HELLO_BYTES, false]);
  assertEquals(await receiver.codeOf(connection), "proof_wrong");
  assertEquals(here.written.length, HELLO_BYTES + 1);
});

Deno.test("a peer that hangs up during the delay changes nothing about the reason", async () => {
  const receiver = new TestReceiver();
  const connection = receiver.connect();
  await speak(connection, () => new Uint8Array(32));
  await settle();
  connection.peer.close();
  assertEquals(await receiver.codeOf(connection), "proof_wrong");
});

Deno.test("a peer that never hangs up after its refusal is cut off by the deadline", async () => {
  const receiver = new TestReceiver();
  const connection = receiver.connect();
  await speak(connection, () => new Uint8Array(32));
  await receiver.clock.advance(LIMITS.handshakeMs - 1);
  assertEquals([connection.here.writeClosed, connection.here.closed], [true, false]);
  await receiver.clock.advance(1);
  assert(connection.here.closed);
  assertEquals(await receiver.codeOf(connection), "proof_wrong");
});

Deno.test("too many wrong proofs, and a hundred half-open connections, are turned away", async () => {
  const receiver = new TestReceiver();
  const codes: string[] = [];
  for (let i = 0; i < LIMITS.maxFailuresPerSource + 1; i++) {
    const connection = receiver.connect();
    prove(connection.peer, { secret: new Uint8Array(32) });
    codes.push(await receiver.codeOf(connection));
  }
  assertEquals(new Set(codes.slice(0, -1)), new Set(["proof_wrong"]));
  assertEquals(codes.at(-1), "too_many_failures");

  const half = Array.from({ length: 100 }, (_, i) => receiver.connect({ from: `10.0.0.${i}` }));
  await settle();
  assertEquals(half.filter(({ here }) => here.closed).length, 100 - LIMITS.maxHalfOpen);
  assertEquals(half.at(-1)!.here.written.length, 0);
  await receiver.clock.advance(LIMITS.handshakeMs);
  assertEquals(half.every(({ here }) => here.closed), true);
  const good = receiver.connect({ from: "10.0.0.200" });
  await prove(good.peer);
  assertEquals(await receiver.codeOf(good), "accepted");
});

Deno.test("port checks are no failures", async () => {
  const receiver = new TestReceiver();
  for (let i = 0; i < 200; i++) {
    assertEquals(await receiver.codeOf(receiver.connect()), "link_ended");
  }
  await prove(receiver.connect().peer);
});

Deno.test("of two senders with one ticket, one gets in", async () => {
  const receiver = new TestReceiver();
  const [one, two] = [receiver.connect(), receiver.connect()];
  prove(one.peer);
  prove(two.peer);
  const codes = [await receiver.codeOf(one), await receiver.codeOf(two)];
  assertEquals(codes.sort(), ["accepted", "secret_used"]);
});

Deno.test("the link can be taken up again with the secret that came of the first proof", async () => {
  const receiver = new TestReceiver();
  const first = receiver.connect();
  const { resumeSecret } = await prove(first.peer);
  const accepted = await first.outcome;
  assert(!(accepted instanceof AgentError));
  const { resumeSecret: secret } = accepted;
  receiver.secrets.add({ secret, migrationId: "m-1", expiresAtMs: Infinity, once: false });
  for (let i = 0; i < 2; i++) {
    const again = receiver.connect();
    await prove(again.peer, { secret: resumeSecret });
    assertEquals(await receiver.codeOf(again), "accepted");
  }
});

Deno.test("cancelling ends the wait at any moment and closes the connection", async () => {
  for (const bytes of [0, 20, HELLO_BYTES, HELLO_BYTES + 32]) {
    const receiver = new TestReceiver();
    const cancel = new AbortController();
    const { peer, here, outcome } = receiver.connect({ signal: cancel.signal });
    await peer.write(hello().subarray(0, bytes));
    if (bytes > HELLO_BYTES) await peer.write(new Uint8Array(32));
    await settle(); // in the middle of the delay, in that case
    cancel.abort(new AgentError("interrupted", "stopped", { kind: "cancelled" }));
    const error = await outcome;
    assert(error instanceof AgentError && here.closed);
    // A refusal that was on its way keeps its reason.
    assertEquals(error.code, bytes > HELLO_BYTES ? "proof_wrong" : "interrupted");
    assertEquals(receiver.clock.count, 0);
  }
});

Deno.test("a ticket says whom to trust, and an authority has to be named", () => {
  const ticket = (server: TicketServer): Ticket => ({
    address: { host: "b.example", port: 1 },
    server,
    secret: SECRET,
    expiresAtMs: 0,
    migrationId: "m",
  });
  const key = ticket({ kind: "key", publicKey: derivedPublicKey(SECRET) });
  assertEquals(targetOfTicket(key, null).trust.serverName, "migrate.internal");
  assertEquals(targetOfTicket(key, "PEM").trust.serverName, "migrate.internal");
  const authority = ticket({ kind: "authority" });
  assertEquals(targetOfTicket(authority, "PEM").trust.serverName, "b.example");
  const error = assertThrows(() => targetOfTicket(authority, null), AgentError);
  assertEquals([error.code, error.kind], ["tls_ca_needed", "usage"]);
});

Deno.test("a secret file says whom to trust, unless an authority is named", () => {
  const address = { host: "b.example", port: 1 };
  const names = [null, "PEM"].map((authorityPem) => {
    const { trust, migrationId } = targetOfSecret(address, { secret: SECRET, authorityPem });
    return [trust.serverName, migrationId];
  });
  assertEquals(names, [["migrate.internal", ""], ["b.example", ""]]);
});

Deno.test("an empty book accepts nobody", async () => {
  const receiver = new TestReceiver();
  Object.assign(receiver, { secrets: new SecretBook() });
  const connection = receiver.connect();
  prove(connection.peer);
  assertEquals(await receiver.codeOf(connection), "proof_wrong");
});
