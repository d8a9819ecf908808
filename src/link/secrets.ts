// The secrets that a receiver takes: until when, how often, and which were used up. A secret that is
// no longer good is kept for a while, so that the local log can say "expired" or "used" instead of
// "wrong"; the peer is told the same in every case.

import { AgentError } from "../base/errors.ts";
import type { Candidate, ProofBook } from "./proof.ts";

/** At most so many secrets; the oldest of no more use makes room. */
const MAX_SECRETS = 256;
/** Senders' nonces that are remembered to recognise a replay as one. */
const MAX_NONCES = 4096;

export interface AcceptedSecret extends Candidate {
  /** By this host's clock; Infinity for never. */
  expiresAtMs: number;
  /** Used up by the first proof. */
  once: boolean;
}

interface Entry extends AcceptedSecret {
  used: boolean;
}

export class SecretBook implements ProofBook<AcceptedSecret> {
  readonly #entries = new Set<Entry>();
  readonly #nonces = new Set<string>();
  readonly #now: () => number;

  constructor(now: () => number = Date.now) {
    this.#now = now;
  }

  /** Takes `secret` from now on. The function that it gives ends that. Throws `too_many_secrets`. */
  add(secret: AcceptedSecret): () => void {
    if (this.#entries.size >= MAX_SECRETS) this.#makeRoom();
    const entry = { ...secret, used: false };
    this.#entries.add(entry);
    return () => void this.#entries.delete(entry);
  }

  candidates(): readonly AcceptedSecret[] {
    return [...this.#entries];
  }

  /** Throws `secret_expired` or `secret_used`. Of several at once, one gets it. */
  claim(candidate: AcceptedSecret): void {
    const entry = candidate as Entry;
    if (!this.#entries.has(entry)) throw refused("secret_withdrawn", "is not valid any more");
    if (this.#now() >= entry.expiresAtMs) {
      const since = new Date(entry.expiresAtMs).toISOString();
      throw refused("secret_expired", `expired at ${since}`);
    }
    if (entry.once && entry.used) throw refused("secret_used", "was used before");
    entry.used = true;
  }

  seen(nonce: Uint8Array): boolean {
    const key = nonce.toHex();
    if (this.#nonces.has(key)) return true;
    this.#nonces.add(key);
    if (this.#nonces.size > MAX_NONCES) {
      for (const oldest of this.#nonces) {
        this.#nonces.delete(oldest);
        break;
      }
    }
    return false;
  }

  #makeRoom(): void {
    for (const entry of this.#entries) {
      if ((entry.once && entry.used) || this.#now() >= entry.expiresAtMs) {
        this.#entries.delete(entry);
        return;
      }
    }
    throw new AgentError("too_many_secrets", `${MAX_SECRETS} tickets are valid already`, {
      kind: "refused",
      hint: "Wait until some have expired, or start another receiver.",
    });
  }
}

function refused(code: string, what: string): AgentError {
  return new AgentError(code, `The peer knows a secret that ${what}`, {
    kind: "refused",
    hint: "Hand the sender a new ticket.",
  });
}
