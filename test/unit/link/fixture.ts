// What the tests of this layer share: a receiver and a sender in memory, without TLS, and a secret of
// their own.

import { assert } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import { AttemptLimits, LIMITS } from "../../../src/link/attempts.ts";
import { type AcceptedLink, acceptOver, type Incoming } from "../../../src/link/secure.ts";
import { HELLO_BYTES, proveToReceiver } from "../../../src/link/proof.ts";
import { type AcceptedSecret, SecretBook } from "../../../src/link/secrets.ts";
import { FakeTimers } from "../wire/fake_timers.ts";
import { MemoryLink, settle } from "../wire/memory_link.ts";

export const never = new AbortController().signal;
export const SECRET = new Uint8Array(32).fill(7);

/** What the proof is bound to where there is no TLS below it. */
export const BINDING = new Uint8Array(32).fill(3);

/** A memory link that comes from somewhere. */
export function incoming(link: MemoryLink, hostname = "192.0.2.1"): Incoming & MemoryLink {
  const remoteAddr: Deno.NetAddr = { transport: "tcp", hostname, port: 40000 };
  return Object.assign(link, { remoteAddr });
}

export interface Connection {
  peer: MemoryLink;
  here: MemoryLink;
  outcome: Promise<AcceptedLink | AgentError>;
}

/** A receiver without TLS that takes `SECRET` once, for the migration `m-1`. */
export class TestReceiver {
  readonly clock = new FakeTimers();
  readonly secrets = new SecretBook(() => this.clock.nowMs());
  readonly limits: AttemptLimits;

  constructor(options: { secret?: Partial<AcceptedSecret>; limits?: Partial<typeof LIMITS> } = {}) {
    this.limits = new AttemptLimits({ ...LIMITS, ...options.limits }, this.clock);
    this.secrets.add({
      secret: SECRET,
      migrationId: "m-1",
      expiresAtMs: Infinity,
      once: true,
      ...options.secret,
    });
  }

  /** A connection: what the peer has of it, and what becomes of it here. */
  connect(
    { from = "192.0.2.1", signal = never } = {},
  ): Connection {
    const [here, peer] = MemoryLink.pair();
    const outcome = acceptOver(incoming(here, from), {
      handshake: () => Promise.resolve(here),
      binding: BINDING,
      secrets: this.secrets,
      limits: this.limits,
      signal,
    }).catch((error) => {
      assert(error instanceof AgentError, `no AgentError: ${error}`);
      assert(here.closed, "the connection was left open");
      return error;
    });
    return { peer, here, outcome };
  }

  /** What became of the connection, once the delay of a failure is over and the peer hangs up. */
  async codeOf({ peer, outcome }: Connection): Promise<string> {
    await this.clock.advance(LIMITS.delayMs);
    if (!peer.closed) await peer.closeWrite();
    const result = await outcome;
    return result instanceof AgentError ? result.code : "accepted";
  }
}

/** All that is there to be read. */
export async function drain(link: MemoryLink): Promise<Uint8Array> {
  const room = new Uint8Array(65536);
  let done = 0;
  for (
    let count = await link.read(room);
    count !== null;
    count = await link.read(room.subarray(done))
  ) {
    done += count;
  }
  return room.subarray(0, done);
}

/** A sender that knows what it should, or not. */
export function prove(
  peer: MemoryLink,
  changes: { secret?: Uint8Array; migrationId?: string } = {},
) {
  const options = { secret: SECRET, migrationId: "m-1", binding: BINDING, signal: never };
  const proving = proveToReceiver(peer, { ...options, ...changes });
  proving.catch(() => {}); // looked at later, or what the receiver says is looked at
  return proving;
}

/** The receiver's nonce, from what it has written. */
export function nonceOf(here: MemoryLink): Uint8Array {
  return here.written.slice(8, HELLO_BYTES);
}

/** The first message of the proof. */
export function hello(nonce = crypto.getRandomValues(new Uint8Array(32))): Uint8Array {
  return Uint8Array.of(...new TextEncoder().encode("MIGAUTH"), 1, ...nonce);
}

/** Sends a hello and then what `second` makes of the receiver's. */
export async function speak(
  { peer, here }: { peer: MemoryLink; here: MemoryLink },
  second: (here: MemoryLink) => Uint8Array,
): Promise<void> {
  await peer.write(hello());
  await settle();
  await peer.write(second(here));
}
