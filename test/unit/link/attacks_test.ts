// The attacks of docs/security.md on the proof, each with what the peer is told and what the log says.

import { assertEquals } from "@std/assert";
import { LIMITS } from "../../../src/link/attempts.ts";
import { computeProof, HELLO_BYTES } from "../../../src/link/proof.ts";
import { settle } from "../wire/memory_link.ts";
import { BINDING, hello, nonceOf, prove, SECRET, speak, TestReceiver } from "./fixture.ts";

const NO = Uint8Array.of(0);
const NOTHING = new Uint8Array();

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
    name: "proof for another certificate: a man in the middle who ends TLS",
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
        binding: BINDING,
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
