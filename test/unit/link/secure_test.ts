// The attacks of docs/security.md at this layer, each with what the peer is told and what the log says.

import { assert, assertEquals, assertRejects } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import { LIMITS } from "../../../src/link/attempts.ts";
import { derivedPublicKey } from "../../../src/link/certificate.ts";
import { computeProof, HELLO_BYTES, proveToReceiver } from "../../../src/link/proof.ts";
import { targetOfSecret, targetOfTicket } from "../../../src/link/secure.ts";
import { SecretBook } from "../../../src/link/secrets.ts";
import type { Ticket, TicketServer } from "../../../src/link/ticket.ts";
import { PLAIN_BINDING } from "../../../src/link/tls.ts";
import { chooseSeed, MemoryLink, randomBytes, seededRandom, settle } from "../wire/memory_link.ts";
import { never, SECRET, TestReceiver } from "./fixture.ts";

const NO = Uint8Array.of(0);
const NOTHING = new Uint8Array();

/** A sender that knows what it should, or not. */
function prove(peer: MemoryLink, changes: { secret?: Uint8Array; migrationId?: string } = {}) {
  const options = { secret: SECRET, migrationId: "m-1", binding: PLAIN_BINDING, signal: never };
  const proving = proveToReceiver(peer, { ...options, ...changes });
  proving.catch(() => {}); // looked at later, or what the receiver says is looked at
  return proving;
}

/** The receiver's nonce, from what it has written. */
function nonceOf(here: MemoryLink): Uint8Array {
  return here.written.slice(8, HELLO_BYTES);
}

function hello(nonce = crypto.getRandomValues(new Uint8Array(32))): Uint8Array {
  return Uint8Array.of(...new TextEncoder().encode("MIGAUTH"), 1, ...nonce);
}

/** Sends a hello and then what `second` makes of the receiver's. */
async function speak(
  { peer, here }: { peer: MemoryLink; here: MemoryLink },
  second: (here: MemoryLink) => Uint8Array,
): Promise<void> {
  await peer.write(hello());
  await settle();
  await peer.write(second(here));
}

interface Attack {
  name: string;
  /** Reason in the local log. */
  code: string;
  /** What the peer hears after the receiver's hello (or instead of it). */
  told: Uint8Array;
  receiver?: () => TestReceiver;
  act(
    connection: ReturnType<TestReceiver["connect"]>,
    receiver: TestReceiver,
  ): Promise<void> | void;
}

const ATTACKS: Attack[] = [
  {
    name: "no secret",
    code: "proof_wrong",
    told: NO,
    act: (c) => speak(c, () => new Uint8Array(32)),
  },
  {
    name: "wrong secret",
    code: "proof_wrong",
    told: NO,
    act: ({ peer }) => void prove(peer, { secret: SECRET.with(3, 0) }),
  },
  {
    name: "ticket of another migration",
    code: "proof_wrong",
    told: NO,
    act: ({ peer }) => void prove(peer, { migrationId: "m-2" }),
  },
  {
    name: "proof for another certificate (or for none): a man in the middle who ends TLS",
    code: "proof_wrong",
    told: NO,
    act: (c) =>
      speak(c, (here) =>
        computeProof(SECRET, {
          label: "sender",
          senderNonce: new Uint8Array(32),
          receiverNonce: nonceOf(here),
          binding: SECRET,
          migrationId: "m-1",
        })),
  },
  {
    name: "replay of a sender's recorded bytes",
    code: "proof_replayed",
    told: NO,
    receiver: () => new TestReceiver({ secret: { once: false } }),
    async act({ peer }, receiver) {
      const first = receiver.connect();
      await prove(first.peer);
      await peer.write(first.peer.written);
    },
  },
  {
    name: "a recorded proof after a fresh nonce",
    code: "proof_wrong",
    told: NO,
    receiver: () => new TestReceiver({ secret: { once: false } }),
    async act(connection, receiver) {
      const first = receiver.connect();
      await prove(first.peer);
      await speak(connection, () => first.peer.written.slice(HELLO_BYTES));
    },
  },
  {
    name: "the receiver's own bytes sent back",
    code: "proof_reflected",
    told: NO,
    act: (c) => speak(c, (here) => here.written.slice(0, 32)),
  },
  {
    name: "the receiver's nonce sent back",
    code: "proof_reflected",
    told: NO,
    act: (c) => speak(c, nonceOf),
  },
  {
    name: "the receiver's own kind of proof",
    code: "proof_reflected",
    told: NO,
    act: async ({ peer, here }) => {
      const senderNonce = new Uint8Array(32);
      await peer.write(hello(senderNonce));
      await settle();
      const transcript = {
        senderNonce,
        receiverNonce: nonceOf(here),
        binding: PLAIN_BINDING,
        migrationId: "m-1",
      };
      await peer.write(computeProof(SECRET, { label: "receiver", ...transcript }));
    },
  },
  {
    name: "expired ticket",
    code: "secret_expired",
    told: NO,
    receiver: () => new TestReceiver({ secret: { expiresAtMs: 500 } }),
    act: ({ peer }) => void prove(peer),
  },
  {
    name: "second use of a ticket",
    code: "secret_used",
    told: NO,
    async act({ peer }, receiver) {
      await prove(receiver.connect().peer);
      prove(peer);
    },
  },
  {
    name: "withdrawn ticket",
    code: "proof_wrong",
    told: NO,
    receiver() {
      const receiver = new TestReceiver();
      receiver.secrets.add({ secret: SECRET, migrationId: "x", expiresAtMs: 1e9, once: true })();
      return receiver;
    },
    act: ({ peer }) => void prove(peer, { migrationId: "x" }),
  },
  {
    name: "another version of the proof",
    code: "proof_version",
    told: NO,
    act: async ({ peer }) => void await peer.write(hello().with(7, 2)),
  },
  {
    name: "the wire without a proof",
    code: "not_migrate_agent",
    told: NO,
    act: async ({ peer }) => {
      await peer.write(new TextEncoder().encode("MIGWIRE\x01" + "\x01".repeat(60)));
    },
  },
  {
    name: "a TLS client at a receiver without TLS",
    code: "peer_speaks_tls",
    told: NO,
    act: async ({ peer }) => {
      await peer.write(Uint8Array.of(0x16, 3, 1, 2, 0, ...new Uint8Array(512)));
    },
  },
  {
    name: "an endless stream",
    code: "not_migrate_agent",
    told: NO,
    act: async ({ peer }) => void await peer.write(new Uint8Array(10_000_000)),
  },
  {
    name: "a peer that hangs up at once (a port check)",
    code: "link_ended",
    told: NOTHING,
    act: ({ peer }) => peer.closeWrite(),
  },
  {
    name: "a peer that says nothing",
    code: "handshake_timeout",
    told: NOTHING,
    act: (_, { clock }) => clock.advance(LIMITS.handshakeMs),
  },
  {
    name: "a byte every other second, all of them right",
    code: "handshake_timeout",
    told: NOTHING,
    async act({ peer }, { clock }) {
      for (const byte of hello().subarray(0, 5)) {
        await peer.write(Uint8Array.of(byte));
        await clock.advance(2000);
      }
    },
  },
];

for (const { name, code, told, receiver: make = () => new TestReceiver(), act } of ATTACKS) {
  Deno.test(`attack: ${name}`, async () => {
    const receiver = make();
    const connection = receiver.connect();
    await act(connection, receiver);
    assertEquals(await receiver.codeOf(connection), code);
    const heard = connection.here.written;
    const afterHello = heard[0] === hello()[0] ? heard.subarray(HELLO_BYTES) : heard;
    assertEquals(afterHello.toHex(), told.toHex());
    assertEquals(receiver.clock.count, 0, "a timer was left");
    // Whatever it was: the next one who knows the secret gets in.
    receiver.secrets.add({ secret: SECRET, migrationId: "next", expiresAtMs: 1e9, once: true });
    const next = receiver.connect();
    await prove(next.peer, { migrationId: "next" });
    assertEquals(await receiver.codeOf(next), "accepted");
  });
}

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
  assertEquals(half.at(-1)!.here.written, NOTHING);
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

Deno.test("what a ticket asks for must be what the operator allows", async () => {
  const ticket = (server: TicketServer): Ticket => ({
    address: { host: "b.example", port: 1 },
    server,
    secret: SECRET,
    expiresAtMs: 0,
    migrationId: "m",
  });
  const key: TicketServer = { kind: "key", publicKey: derivedPublicKey(SECRET) };
  const cases: [TicketServer, string | null, boolean, string][] = [
    [key, null, false, "migrate.internal"],
    [key, null, true, "insecure_mismatch"],
    [{ kind: "authority" }, "PEM", false, "b.example"],
    [{ kind: "authority" }, null, false, "tls_ca_needed"],
    [{ kind: "plain" }, null, true, "no TLS"],
    [{ kind: "plain" }, null, false, "insecure_ticket"],
  ];
  for (const [server, authorityPem, allowPlain, expected] of cases) {
    const target = () => targetOfTicket(ticket(server), { authorityPem, allowPlain });
    if (expected.includes("_")) {
      const error = await assertRejects(() => Promise.resolve().then(target), AgentError);
      assertEquals([error.code, error.kind], [expected, "usage"]);
    } else assertEquals(target().trust?.serverName ?? "no TLS", expected);
  }
  const shared = { secret: SECRET, authorityPem: null, allowPlain: false };
  const { trust, migrationId } = targetOfSecret({ host: "h", port: 1 }, shared);
  assertEquals([trust?.serverName, migrationId], ["migrate.internal", ""]);
});

Deno.test("an empty book accepts nobody", async () => {
  const receiver = new TestReceiver();
  Object.assign(receiver, { secrets: new SecretBook() });
  const connection = receiver.connect();
  prove(connection.peer);
  assertEquals(await receiver.codeOf(connection), "proof_wrong");
});
