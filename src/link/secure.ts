// The way from a bare connection to a peer that is known: limits, TLS, proof, in this order, for both
// sides. What comes out is a link for the wire. Who is trusted and what is accepted is the caller's.
// Specification: docs/protocol.md, "Before the wire".

import { Deadline } from "../base/deadline.ts";
import { AgentError } from "../base/errors.ts";
import type { Address } from "./address.ts";
import type { Admission, AttemptLimits } from "./attempts.ts";
import { derivedPublicKey } from "./certificate.ts";
import { dial, type DialOptions } from "./dial.ts";
import { closeQuietly, type Link } from "./link.ts";
import { proveToReceiver, verifySender } from "./proof.ts";
import type { AcceptedSecret, SecretBook } from "./secrets.ts";
import type { Ticket } from "./ticket.ts";
import {
  type Binding,
  startTls,
  type TlsIdentity,
  type TlsTrust,
  trustAuthority,
  trustKey,
} from "./tls.ts";
import { acceptTls } from "./tls_server.ts";

export interface SecureLink {
  link: Link;
  /** For `SecretBook.add` or `dialSecure` when this connection is lost: known to both sides only. */
  resumeSecret: Uint8Array;
}

export interface AcceptedLink extends SecureLink {
  /** What the sender has proved to know. */
  secret: AcceptedSecret;
  /** Where it comes from, as the limits count it. */
  source: string;
}

/** A connection that was accepted. */
export interface Incoming extends Link {
  readonly remoteAddr: { readonly hostname: string };
}

interface ProofOptions {
  secrets: SecretBook;
  limits: AttemptLimits;
  signal: AbortSignal;
}

export interface AcceptOptions extends ProofOptions {
  identity: TlsIdentity;
}

/**
 * Finds out who has connected. Throws why it will not be served: an AgentError of kind "refused" or
 * "link" for the local log, or the signal's reason; the connection is closed then, and the peer has
 * been told nothing, a TLS alert, or one byte. Takes `handshakeMs` of the limits at most.
 */
export async function acceptSecure(
  conn: Incoming,
  { identity, ...options }: AcceptOptions,
): Promise<AcceptedLink> {
  return await acceptOver(conn, {
    ...options,
    binding: identity.binding,
    handshake: (signal) => acceptTls(conn, { identity, signal }),
  });
}

export interface AcceptOverOptions extends ProofOptions {
  binding: Binding;
  /** What makes a link for the proof out of the connection. */
  handshake: (signal: AbortSignal) => Promise<Link>;
}

/** `acceptSecure` over any handshake: the limits and the proof around it. */
export async function acceptOver(
  conn: Incoming,
  { handshake, binding, secrets, limits, signal }: AcceptOverOptions,
): Promise<AcceptedLink> {
  let link: Link = conn;
  try {
    using admission = limits.admit(conn.remoteAddr.hostname);
    using deadline = limits.deadline(signal);
    try {
      link = await handshake(deadline.signal);
      const { candidate: secret, resumeSecret } = await verifySender(link, {
        book: secrets,
        binding,
        beforeRefusal: () => limits.delay(deadline.signal),
        signal: deadline.signal,
      });
      admission.proved();
      return { link, resumeSecret, secret, source: admission.source };
    } catch (error) {
      countFailure(error, admission);
      throw error;
    }
  } catch (error) {
    closeQuietly(link);
    throw error;
  }
}

/**
 * A peer that hangs up or says nothing has tried nothing: port checks do that. Half-open connections
 * are limited by their number and time.
 */
function countFailure(error: unknown, admission: Admission): void {
  if (!(error instanceof AgentError) || error.kind !== "refused") return;
  if (error.code !== "handshake_timeout") admission.failed();
}

export interface DialTarget {
  address: Address;
  trust: TlsTrust;
  secret: Uint8Array;
  migrationId: string;
}

/** What a ticket asks for. `authorityPem` is the content of `--tls-ca`. Throws `tls_ca_needed`. */
export function targetOfTicket(ticket: Ticket, authorityPem: string | null): DialTarget {
  const { address, secret, migrationId, server } = ticket;
  const target = { address, secret, migrationId };
  switch (server.kind) {
    case "key":
      return { ...target, trust: trustKey(server.publicKey) };
    case "authority":
      if (authorityPem === null) {
        throw new AgentError(
          "tls_ca_needed",
          "The receiver of this ticket shows a certificate of the operator's own",
          { kind: "usage", hint: "Name its authority with --tls-ca." },
        );
      }
      return { ...target, trust: trustAuthority(authorityPem, address.host) };
  }
}

/** What `--secret-file` asks for: the receiver's key follows from the secret, unless a CA is named. */
export function targetOfSecret(
  address: Address,
  { secret, authorityPem }: { secret: Uint8Array; authorityPem: string | null },
): DialTarget {
  const trust = authorityPem === null
    ? trustKey(derivedPublicKey(secret))
    : trustAuthority(authorityPem, address.host);
  return { address, secret, migrationId: "", trust };
}

/**
 * Connects to the receiver, and both prove who they are. Throws what `dial`, `startTls` and
 * `proveToReceiver` throw, `handshake_timeout`, or the signal's reason. Safe to cancel: nothing stays
 * open. `timeoutMs` is for the connection, and once more for the handshake.
 */
export async function dialSecure(
  target: DialTarget,
  { signal, timeoutMs }: DialOptions,
): Promise<SecureLink> {
  const { address, trust, secret, migrationId } = target;
  const conn = await dial(address, { signal, timeoutMs });
  using deadline = new Deadline(
    timeoutMs,
    () =>
      new AgentError(
        "handshake_timeout",
        `The receiver did not prove itself within ${timeoutMs / 1000} seconds`,
        { kind: "link" },
      ),
    signal,
  );
  const link = await startTls(conn, { trust, signal: deadline.signal });
  try {
    const { resumeSecret } = await proveToReceiver(link, {
      secret,
      migrationId,
      binding: trust.binding,
      signal: deadline.signal,
    });
    return { link, resumeSecret };
  } catch (error) {
    closeQuietly(link);
    throw error;
  }
}
