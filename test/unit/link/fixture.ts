// What the tests of this layer share: time that passes when a test says so, a receiver and a sender
// in memory, and a secret of their own.

import { assert } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import { AttemptLimits, type Clock, LIMITS } from "../../../src/link/attempts.ts";
import { type AcceptedLink, acceptSecure, type Incoming } from "../../../src/link/secure.ts";
import { type AcceptedSecret, SecretBook } from "../../../src/link/secrets.ts";
import { MemoryLink, settle } from "../wire/memory_link.ts";

export const never = new AbortController().signal;
export const SECRET = new Uint8Array(32).fill(7);

export class FakeClock implements Clock {
  #nowMs = 1000;
  #lastId = 0;
  readonly #due = new Map<number, { atMs: number; callback: () => void }>();

  nowMs(): number {
    return this.#nowMs;
  }

  setTimeout(callback: () => void, ms: number): number {
    this.#due.set(++this.#lastId, { atMs: this.#nowMs + ms, callback });
    return this.#lastId;
  }

  clearTimeout(id: number): void {
    this.#due.delete(id);
  }

  /** Timers that wait. */
  get count(): number {
    return this.#due.size;
  }

  async advance(ms: number): Promise<void> {
    const endMs = this.#nowMs + ms;
    await settle();
    for (;;) {
      const next = [...this.#due].sort(([, a], [, b]) => a.atMs - b.atMs)[0];
      if (next === undefined || next[1].atMs > endMs) break;
      this.#due.delete(next[0]);
      this.#nowMs = next[1].atMs;
      next[1].callback();
      await settle();
    }
    this.#nowMs = endMs;
  }
}

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
  readonly clock = new FakeClock();
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
    const options = { identity: null, secrets: this.secrets, limits: this.limits, signal };
    const outcome = acceptSecure(incoming(here, from), options).catch((error) => {
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
