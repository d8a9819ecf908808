// Both sides prove that they know the secret, before anything else of the peer is looked at: four
// messages of fixed size, HMAC-SHA-256 over both nonces, what the connection is bound to and the
// migration's id, with another label for each direction. The sender speaks and proves first: whoever
// cannot prove learns that a migrate-agent listens (if it knew how to ask), a random nonce, a "no".
// Knows nothing of TLS, addresses and limits.
// Specification: docs/protocol.md, "Before the wire".

import { createHmac, timingSafeEqual } from "node:crypto";
import { abortable } from "../base/deadline.ts";
import { AgentError, type AgentErrorOptions } from "../base/errors.ts";
import { type Link, readExactly, writeExactly } from "./link.ts";

export const NONCE_BYTES = 32;
export const HELLO_BYTES = 40;
export const MAC_BYTES = 32;

const MAGIC = new TextEncoder().encode("MIGAUTH");
const VERSION = 1;
/** Of at most 4 KiB each: what a peer may still say after its refusal. */
const MAX_WASTE_READS = 16;
const REFUSED = 0;
const ACCEPTED = 1;

export type ProofLabel = "sender" | "receiver" | "resume";

/** What a sender may prove to know. */
export interface Candidate {
  secret: Uint8Array;
  /** Empty where the secret is shared by hosts and not made for one migration. */
  migrationId: string;
}

/** The secrets of a receiver, and what it has seen. */
export interface ProofBook<C extends Candidate> {
  candidates(): readonly C[];
  /** Called with what was proved, before the peer is told; throws when it is not good any more. */
  claim(candidate: C): void;
  /** Remembers a sender's nonce; whether it was seen before. */
  seen(nonce: Uint8Array): boolean;
}

/** What both sides know after the proof. */
export interface Proven {
  /** A new secret of both, for further connections of the same migration when this one is lost. */
  resumeSecret: Uint8Array;
}

export interface SenderProofOptions extends Candidate {
  /** 32 bytes. */
  binding: Uint8Array;
  signal: AbortSignal;
}

/**
 * The sender's part. Throws `proof_refused` (the receiver will not have us), `receiver_unproven` (it
 * does not know the secret itself), `not_migrate_agent`, `proof_version`, `link_ended` or the
 * signal's reason. After a throw the link is of no use.
 */
export async function proveToReceiver(link: Link, options: SenderProofOptions): Promise<Proven> {
  const { secret, signal } = options;
  const senderNonce = makeNonce();
  await writeExactly(link, encodeHello(senderNonce), signal);
  const hello = new Uint8Array(HELLO_BYTES);
  // Byte by byte decided: a refusal is one byte, and no hello begins with it.
  await readExactly(link, hello.subarray(0, 1), signal);
  if (hello[0] === REFUSED) throw refusedByReceiver();
  await readExactly(link, hello.subarray(1), signal);
  const receiverNonce = decodeHello(hello);

  const transcript = { ...options, senderNonce, receiverNonce };
  await writeExactly(link, computeProof(secret, { label: "sender", ...transcript }), signal);
  const verdict = new Uint8Array(1);
  await readExactly(link, verdict, signal);
  if (verdict[0] !== ACCEPTED) throw refusedByReceiver();
  const proof = new Uint8Array(MAC_BYTES);
  await readExactly(link, proof, signal);
  if (!timingSafeEqual(proof, computeProof(secret, { label: "receiver", ...transcript }))) {
    throw refusal("receiver_unproven", "The other end does not know the secret", {
      hint: "It is not the receiver that the ticket is for: somebody may stand in between.",
    });
  }
  return { resumeSecret: computeProof(secret, { label: "resume", ...transcript }) };
}

export interface ReceiverProofOptions<C extends Candidate> {
  book: ProofBook<C>;
  /** 32 bytes. */
  binding: Uint8Array;
  /** Waited for before a refusal is sent: the delay that makes tries slow. */
  beforeRefusal: (error: AgentError) => Promise<void>;
  signal: AbortSignal;
}

/**
 * The receiver's part; gives what the sender proved to know. The peer that fails is told one byte,
 * the same whatever was wrong; the reason is in the error, for the local log: `not_migrate_agent`,
 * `proof_version`, `proof_wrong`, `proof_replayed`, `proof_reflected`, what `claim` throws,
 * `link_ended`, or the signal's reason. After a throw the link is of no use.
 */
export async function verifySender<C extends Candidate>(
  link: Link,
  options: ReceiverProofOptions<C>,
): Promise<Proven & { candidate: C }> {
  const { signal } = options;
  try {
    return await answerSender(link, options);
  } catch (error) {
    // A lost link and a limit that has passed are not worth a word to the peer.
    if (signal.aborted || !(error instanceof AgentError) || error.kind === "link") throw error;
    try {
      await options.beforeRefusal(error);
      await writeExactly(link, Uint8Array.of(REFUSED), signal);
      await abortable(waitForEnd(link), signal);
    } catch {
      // A peer that does not wait for its refusal changes nothing about the reason for it.
    }
    throw error;
  }
}

/** Closing while the peer's bytes lie unread would reset the connection, and our answer with it. */
async function waitForEnd(link: Link): Promise<void> {
  await link.closeWrite();
  const waste = new Uint8Array(4096);
  for (let reads = 0; reads < MAX_WASTE_READS; reads++) {
    if (await link.read(waste) === null) return;
  }
}

async function answerSender<C extends Candidate>(
  link: Link,
  { book, binding, signal }: ReceiverProofOptions<C>,
): Promise<Proven & { candidate: C }> {
  const hello = new Uint8Array(HELLO_BYTES);
  await readExactly(link, hello, signal);
  const senderNonce = decodeHello(hello);
  const replayed = book.seen(senderNonce);
  const receiverNonce = makeNonce();
  await writeExactly(link, encodeHello(receiverNonce), signal);
  const proof = new Uint8Array(MAC_BYTES);
  await readExactly(link, proof, signal);

  const nonces = { senderNonce, receiverNonce, binding };
  // All are tried, so that the time says nothing about which one it was.
  let proven: C | undefined;
  let reflected = equalHead(proof, receiverNonce) || equalHead(proof, MAGIC);
  for (const candidate of book.candidates()) {
    const transcript = { ...nonces, migrationId: candidate.migrationId };
    const { secret } = candidate;
    if (timingSafeEqual(proof, computeProof(secret, { label: "sender", ...transcript }))) {
      proven = candidate;
    }
    if (timingSafeEqual(proof, computeProof(secret, { label: "receiver", ...transcript }))) {
      reflected = true;
    }
  }
  if (replayed) throw refusal("proof_replayed", "The peer repeats what a sender said before");
  if (reflected) throw refusal("proof_reflected", "The peer sends back what this receiver said");
  if (proven === undefined) {
    throw refusal("proof_wrong", "The peer does not know the secret", {
      hint: "A ticket of another receiver, or another secret file.",
    });
  }
  book.claim(proven);
  const { secret, migrationId } = proven;
  const transcript = { ...nonces, migrationId };
  const answer = new Uint8Array(1 + MAC_BYTES);
  answer[0] = ACCEPTED;
  answer.set(computeProof(secret, { label: "receiver", ...transcript }), 1);
  await writeExactly(link, answer, signal);
  return {
    candidate: proven,
    resumeSecret: computeProof(secret, { label: "resume", ...transcript }),
  };
}

export interface Transcript {
  label: ProofLabel;
  senderNonce: Uint8Array;
  receiverNonce: Uint8Array;
  binding: Uint8Array;
  migrationId: string;
}

/** Every part but the last has a fixed length, or its length before it. */
export function computeProof(secret: Uint8Array, transcript: Transcript): Uint8Array {
  const { label, senderNonce, receiverNonce, binding, migrationId } = transcript;
  if (binding.length !== 32) throw new RangeError("a binding has 32 bytes");
  return createHmac("sha256", secret)
    .update(`migrate-agent proof ${VERSION} ${label}`.padEnd(32, "\0"))
    .update(senderNonce).update(receiverNonce).update(binding)
    .update(migrationId)
    .digest();
}

function makeNonce(): Uint8Array {
  return crypto.getRandomValues(new Uint8Array(NONCE_BYTES));
}

function encodeHello(nonce: Uint8Array): Uint8Array {
  return Uint8Array.of(...MAGIC, VERSION, ...nonce);
}

function decodeHello(hello: Uint8Array): Uint8Array {
  if (!equalHead(hello, MAGIC)) {
    throw refusal("not_migrate_agent", "The peer does not speak migrate-agent's protocol");
  }
  const version = hello[MAGIC.length];
  if (version !== VERSION) {
    throw refusal(
      "proof_version",
      `The peer proves in version ${version}, this program in version ${VERSION}`,
      { hint: "Use the same version of migrate-agent on both hosts." },
    );
  }
  return hello.subarray(MAGIC.length + 1);
}

function equalHead(bytes: Uint8Array, head: Uint8Array): boolean {
  return head.every((byte, i) => bytes[i] === byte);
}

function refusedByReceiver(): AgentError {
  return refusal("proof_refused", "The receiver refused this sender", {
    hint:
      "Its log says why: a ticket that has expired, was used before or is of another receiver, " +
      "another secret, or too many wrong tries.",
  });
}

function refusal(code: string, message: string, options: AgentErrorOptions = {}): AgentError {
  return new AgentError(code, message, { kind: "refused", ...options });
}
