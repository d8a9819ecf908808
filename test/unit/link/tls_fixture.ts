// A receiver with TLS on loopback, and a certificate for it.

import { assert, assertRejects } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import { AttemptLimits, type Clock, LIMITS, SYSTEM_CLOCK } from "../../../src/link/attempts.ts";
import { makeSessionCertificate } from "../../../src/link/certificate.ts";
import type { Link } from "../../../src/link/link.ts";
import { listen } from "../../../src/link/listen.ts";
import {
  type AcceptedLink,
  acceptSecure,
  dialSecure,
  type DialTarget,
} from "../../../src/link/secure.ts";
import { SecretBook } from "../../../src/link/secrets.ts";
import type { TlsIdentity, TlsTrust } from "../../../src/link/tls.ts";
import { never, SECRET } from "./fixture.ts";

export const LOOPBACK = { host: "127.0.0.1", port: 0 };
export const DIAL = { signal: never, timeoutMs: 5000 };

/** An identity for an hour. */
export async function makeSession() {
  return await makeSessionCertificate({ nowMs: Date.now(), untilMs: Date.now() + 3600_000 });
}

/** Accepts connections until it is closed; what became of each is in `outcomes`, in order. */
export class TlsReceiver implements Disposable {
  readonly outcomes: Promise<AcceptedLink | AgentError>[] = [];
  readonly listener = listen(LOOPBACK);
  readonly #stop = new AbortController();
  #waiters: (() => void)[] = [];

  constructor(
    identity: TlsIdentity,
    { migrationId = "m-1", clock = SYSTEM_CLOCK }: { migrationId?: string; clock?: Clock } = {},
  ) {
    const secrets = new SecretBook();
    secrets.add({ secret: SECRET, migrationId, expiresAtMs: Infinity, once: false });
    const limits = new AttemptLimits({ ...LIMITS, delayMs: 0 }, clock);
    const accept = async () => {
      while (!this.#stop.signal.aborted) {
        const conn = await this.listener.accept(this.#stop.signal);
        const options = { identity, secrets, limits, signal: never };
        const outcome = acceptSecure(conn, options).catch((error) => {
          assert(error instanceof AgentError, `${error}`);
          return error;
        });
        this.outcomes.push(outcome);
        this.#waiters.splice(0).forEach((wake) => wake());
      }
    };
    accept().catch((error) => assert(this.#stop.signal.aborted, `${error}`));
  }

  /** Waits for the connection with that number, counted from 0. */
  async accepted(at: number): Promise<void> {
    while (this.outcomes.length <= at) await new Promise<void>((wake) => this.#waiters.push(wake));
  }

  /** What became of that connection. */
  async outcome(at: number): Promise<AcceptedLink | AgentError> {
    await this.accepted(at);
    return await this.outcomes[at]!;
  }

  async code(at: number): Promise<string> {
    const result = await this.outcome(at);
    return result instanceof AgentError ? result.code : "accepted";
  }

  async link(at: number): Promise<Link> {
    const result = await this.outcome(at);
    if (result instanceof AgentError) throw result;
    return result.link;
  }

  target(trust: TlsTrust): DialTarget {
    const { address } = this.listener;
    return { address, secret: SECRET, migrationId: "m-1", trust };
  }

  [Symbol.dispose](): void {
    this.#stop.abort(new Error("the test is over"));
    this.listener.close();
  }
}

/** Why `target` cannot be reached. */
export async function dialCode(target: DialTarget): Promise<string> {
  const error = await assertRejects(() => dialSecure(target, DIAL), AgentError);
  return error.code;
}
