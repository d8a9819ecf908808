import { assert, assertEquals, assertNotEquals, assertRejects } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import {
  type Candidate,
  computeProof,
  HELLO_BYTES,
  type Proven,
  proveToReceiver,
  verifySender,
} from "../../../src/link/proof.ts";
import { SecretBook } from "../../../src/link/secrets.ts";
import { chooseSeed, MemoryLink, randomBytes, seededRandom, settle } from "../wire/memory_link.ts";
import { fromHex } from "../wire/spec_vectors.ts";
import { BINDING, drain, never, SECRET } from "./fixture.ts";

const PAGE = new URL("../../../docs/protocol.md", import.meta.url);

interface Knowledge {
  secret?: Uint8Array;
  migrationId?: string;
  binding?: Uint8Array;
}

/** Runs both parts; each side's outcome is what it gave or the code of what it threw. */
async function meet(sender: Knowledge, receiver: Knowledge, readLimit = () => Infinity) {
  const [here, there] = MemoryLink.pair();
  here.readLimit = there.readLimit = readLimit;
  const known = { secret: SECRET, migrationId: "m-1", binding: BINDING };
  const book = new SecretBook();
  book.add({ ...known, ...receiver, once: true, expiresAtMs: Infinity });
  const [sent, received] = await Promise.all([
    codeOf(proveToReceiver(there, { ...known, ...sender, signal: never })).finally(() =>
      there.closeWrite()
    ),
    codeOf(verifySender(here, {
      book,
      binding: receiver.binding ?? BINDING,
      beforeRefusal: () => Promise.resolve(),
      signal: never,
    })),
  ]);
  return { sent, received, here, there };
}

async function codeOf<T>(work: Promise<T>): Promise<T | string> {
  try {
    return await work;
  } catch (error) {
    assert(error instanceof AgentError, `${error}`);
    return error.code;
  }
}

function isProven(outcome: string | Proven): asserts outcome is Proven {
  assert(typeof outcome !== "string", `not proven: ${outcome}`);
}

Deno.test("both sides that know the secret prove it, and have a new secret in common", async () => {
  for (const readLimit of [() => Infinity, () => 1]) {
    const { sent, received, here, there } = await meet({}, {}, readLimit);
    isProven(sent);
    isProven(received);
    assertEquals(sent.resumeSecret, received.resumeSecret);
    assertNotEquals(sent.resumeSecret, SECRET);
    assertEquals([there.written.length, here.written.length], [40 + 32, 40 + 1 + 32]);
  }
});

Deno.test("what follows the proof is left in the link", async () => {
  const [here, there] = MemoryLink.pair();
  const book = new SecretBook();
  book.add({ secret: SECRET, migrationId: "m", once: true, expiresAtMs: Infinity });
  const common = { binding: BINDING, signal: never };
  const receiving = verifySender(here, {
    book,
    beforeRefusal: () => Promise.resolve(),
    ...common,
  });
  await proveToReceiver(there, { secret: SECRET, migrationId: "m", ...common });
  await there.write(Uint8Array.of(1, 2, 3));
  await there.closeWrite();
  await receiving;
  assertEquals(await drain(here), Uint8Array.of(1, 2, 3));
});

Deno.test("every part that both must have in common is part of the proof", async () => {
  const other = SECRET.slice();
  other[0]!++;
  other[31] = 0;
  for (
    const different of [
      { secret: other },
      { migrationId: "m-2" },
      { migrationId: "" },
      { binding: SECRET },
    ]
  ) {
    const { sent, received, here } = await meet({}, different);
    assertEquals([sent, received], ["proof_refused", "proof_wrong"]);
    assertEquals(here.written.length, HELLO_BYTES + 1, "it proved something to a stranger");
    assertEquals(here.written.at(-1), 0);
  }
});

Deno.test("the vectors of the specification", async () => {
  const page = await Deno.readTextFile(PAGE);
  const block = (name: string) =>
    fromHex(new RegExp("^```hex proof=" + name + "\n([\\s\\S]*?)^```$", "m").exec(page)![1]!);
  const transcript = {
    senderNonce: new Uint8Array(32).fill(1),
    receiverNonce: new Uint8Array(32).fill(2),
    binding: new Uint8Array(32).fill(3),
    migrationId: "m-7f3a9c21",
  };
  for (const label of ["sender", "receiver", "resume"] as const) {
    const value = computeProof(SECRET, { label, ...transcript });
    assertEquals(block(label).toHex(), value.toHex(), label);
  }
  const { there } = await meet({}, {});
  assertEquals(block("hello").subarray(0, 8), there.written.subarray(0, 8));
});

Deno.test("a receiver that knows nothing is found out, also when it sends our own bytes back", async () => {
  const answers: [string, (hello: Uint8Array) => Uint8Array, (proof: Uint8Array) => Uint8Array][] =
    [
      ["receiver_unproven", (hello) => hello, (proof) => Uint8Array.of(1, ...proof)],
      ["receiver_unproven", (hello) => hello, () => Uint8Array.of(1, ...new Uint8Array(32))],
      ["proof_refused", (hello) => hello, () => Uint8Array.of(2)],
      ["proof_refused", () => Uint8Array.of(0), () => new Uint8Array()],
      ["not_migrate_agent", () => new Uint8Array(40).fill(65), () => new Uint8Array()],
      [
        "proof_version",
        (hello) => hello.with(7, 2),
        () => new Uint8Array(),
      ],
      ["link_ended", (hello) => hello.subarray(0, 39), () => new Uint8Array()],
      ["link_ended", (hello) => hello, (proof) => Uint8Array.of(1, ...proof.subarray(0, 31))],
      ["link_ended", () => new Uint8Array(), () => new Uint8Array()],
    ];
  for (const [code, hello, proof] of answers) {
    const [fake, sender] = MemoryLink.pair();
    const options = { secret: SECRET, migrationId: "", binding: BINDING, signal: never };
    const sent = codeOf(proveToReceiver(sender, options));
    await settle();
    await fake.write(hello(sender.written.slice()));
    await settle();
    await fake.write(proof(sender.written.slice(HELLO_BYTES)));
    await fake.closeWrite();
    assertEquals(await sent, code);
  }
});

Deno.test("random bytes end in the project's own errors, on both sides", async () => {
  const random = seededRandom(chooseSeed());
  const options = { secret: SECRET, migrationId: "", binding: BINDING, signal: never };
  for (let i = 0; i < 200; i++) {
    const [peer, link] = MemoryLink.pair();
    const bytes = randomBytes(Math.floor(random() * 120), random);
    if (random() < 0.7) {
      bytes.set(new TextEncoder().encode("MIGAUTH\x01").subarray(0, bytes.length));
    }
    await peer.write(bytes);
    await peer.closeWrite();
    const outcome = i % 2 === 0 ? proveToReceiver(link, options) : verifySender(link, {
      ...options,
      book: new SecretBook(),
      beforeRefusal: () => Promise.resolve(),
    });
    await assertRejects(() => outcome as Promise<unknown>, AgentError);
  }
});

Deno.test("all candidates are tried, and the right one is found", async () => {
  const [here, there] = MemoryLink.pair();
  const book = new SecretBook();
  const secrets: Candidate[] = [1, 2, 3].map((n) => ({
    secret: new Uint8Array(32).fill(n),
    migrationId: `m-${n}`,
  }));
  for (const secret of secrets) book.add({ ...secret, once: true, expiresAtMs: Infinity });
  const common = { binding: BINDING, signal: never };
  const [{ candidate }] = await Promise.all([
    verifySender(here, { book, beforeRefusal: () => Promise.resolve(), ...common }),
    proveToReceiver(there, { ...secrets[1]!, ...common }),
  ]);
  assertEquals(candidate.migrationId, "m-2");
});
