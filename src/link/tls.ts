// TLS below the proof: who a receiver says that it is, whom a sender trusts, and the two handshakes.
// Only `Deno.listenTls` and `Deno.startTls`: node:tls is not used (it checks less and loses data).
//
// What is enforced of TLS 1.3, and what is not: both ends are rustls with 1.2 and 1.3, they take the
// highest that both have, and TLS itself notices a man in the middle who talks them down (RFC 8446,
// 4.1.3). Deno neither tells the version that was agreed on nor lets 1.2 be switched off. So a foreign
// client that offers 1.2 alone gets through the handshake and stops at the proof; looking into its
// first message would take a second hop, on loopback, for every byte (measured: half the throughput,
// twice the receiver's CPU time) and one more open port.
// Specification: docs/protocol.md, "Before the wire".

import { createHash } from "node:crypto";
import { abortable } from "../base/deadline.ts";
import { AgentError, describeError, quote } from "../base/errors.ts";
import type { Address } from "./address.ts";
import {
  type Certificate,
  hashPublicKey,
  makeTrustAnchor,
  PUBLIC_KEY_BYTES,
  SERVER_NAME,
} from "./certificate.ts";
import { type Link, linkEnded } from "./link.ts";
import { cannotListen, Listener } from "./listen.ts";

/** Both sides must offer it: no other protocol's client or server can be taken for ours. */
const ALPN = "migrate-agent/1";

/** What the proof is bound to: the same 32 bytes on both sides, or the proof fails. */
export type Binding = Uint8Array;

/** Without TLS. */
export const PLAIN_BINDING: Binding = new Uint8Array(32);

/** With an operator's own certificate: who the receiver is, TLS has checked against the operator's CA. */
const OPERATOR_BINDING: Binding = createHash("sha256").update("operator's certificate").digest();

/** What a receiver shows. */
export interface TlsIdentity {
  certPem: string;
  keyPem: string;
  binding: Binding;
}

/** Whom a sender takes for the receiver. */
export interface TlsTrust {
  caPem: string;
  serverName: string;
  binding: Binding;
}

/** The identity of a certificate that this program made. */
export function ownIdentity({ certPem, keyPem, publicKey }: Certificate): TlsIdentity {
  return { certPem, keyPem, binding: hashPublicKey(publicKey) };
}

/** The identity of `--tls-cert` and `--tls-key`. */
export function operatorIdentity(certPem: string, keyPem: string): TlsIdentity {
  return { certPem, keyPem, binding: OPERATOR_BINDING };
}

/** Trusts this key and nothing else. */
export function trustKey(publicKey: Uint8Array): TlsTrust {
  if (publicKey.length !== PUBLIC_KEY_BYTES) throw new RangeError("not a P-256 public key");
  return {
    caPem: makeTrustAnchor(publicKey),
    serverName: SERVER_NAME,
    binding: hashPublicKey(publicKey),
  };
}

/** Trusts what the authorities of `--tls-ca` have certified for the host that is dialled. */
export function trustAuthority(caPem: string, host: string): TlsTrust {
  return { caPem, serverName: host, binding: OPERATOR_BINDING };
}

/** Listens for TLS at `address`; the handshake is left to `shakeHands`. Throws `cannot_listen`. */
export function listenTls(address: Address, identity: TlsIdentity): Listener<Deno.TlsConn> {
  const { certPem: cert, keyPem: key } = identity;
  try {
    return new Listener(
      Deno.listenTls({
        hostname: address.host,
        port: address.port,
        cert,
        key,
        alpnProtocols: [ALPN],
      }),
    );
  } catch (error) {
    if (!(error instanceof Deno.errors.InvalidData)) throw cannotListen(address, error);
    throw new AgentError(
      "bad_tls_certificate",
      `Cannot use the TLS certificate and key: ${describeError(error)}`,
      {
        kind: "usage",
        hint: "Give --tls-cert the certificate (with its chain) and --tls-key its key, in PEM.",
        cause: error,
      },
    );
  }
}

/**
 * The client's handshake on `conn`, which is used up. Throws `certificate_refused`,
 * `peer_without_tls`, `tls_failed` or the signal's reason; the connection is closed then.
 */
export async function startTls(
  conn: Deno.TcpConn,
  { trust, signal }: { trust: TlsTrust; signal: AbortSignal },
): Promise<TlsLink> {
  let tls: Deno.TlsConn;
  try {
    trustNobodyElse();
    tls = await Deno.startTls(conn, {
      hostname: trust.serverName,
      caCerts: [trust.caPem],
      alpnProtocols: [ALPN],
    });
  } catch (error) {
    closeQuietly(conn);
    throw error instanceof AgentError ? error : clientError(error);
  }
  return await shakeHands(tls, { signal, explain: clientError });
}

/**
 * Ends the handshake of either side. Throws what `explain` makes of a failure, or the signal's
 * reason; the connection is closed then.
 */
export async function shakeHands(
  conn: Deno.TlsConn,
  { signal, explain = serverError }: {
    signal: AbortSignal;
    explain?: (error: unknown) => AgentError;
  },
): Promise<TlsLink> {
  try {
    const { alpnProtocol } = await abortable(conn.handshake(), signal);
    if (alpnProtocol !== ALPN) {
      throw new AgentError("peer_not_agent", `The peer did not offer the protocol '${ALPN}'`, {
        kind: "refused",
        hint: "It is no migrate-agent, or one of another version.",
      });
    }
    return new TlsLink(conn);
  } catch (error) {
    closeQuietly(conn);
    throw signal.aborted || error instanceof AgentError ? error : explain(error);
  }
}

/**
 * A TLS connection as a link. Deno gives one record (16 KiB) a read; collecting them into larger
 * reads would cost a copy and gained nothing when it was measured (test/bench/relay.ts --tls).
 */
export class TlsLink implements Link {
  readonly #conn: Deno.TlsConn;

  constructor(conn: Deno.TlsConn) {
    this.#conn = conn;
  }

  async read(p: Uint8Array): Promise<number | null> {
    try {
      return await this.#conn.read(p);
    } catch (error) {
      // A peer that dies says no goodbye: TLS tells that from an end, TCP does not.
      if (error instanceof Deno.errors.UnexpectedEof) {
        throw linkEnded("it was cut off without an end of TLS", error);
      }
      throw linkEnded(describeError(error), error);
    }
  }

  async write(p: Uint8Array): Promise<number> {
    try {
      return await this.#conn.write(p);
    } catch (error) {
      throw linkEnded(describeError(error), error);
    }
  }

  async closeWrite(): Promise<void> {
    try {
      await this.#conn.closeWrite();
    } catch (error) {
      throw linkEnded(describeError(error), error);
    }
  }

  close(): void {
    closeQuietly(this.#conn);
  }
}

/**
 * Deno adds what it is given to trust to a store of public authorities. That store is made at the
 * first use, from this variable (in 2.7.11, in compiled programs as well): emptied, only what is
 * named is trusted. A test with an authority in the system's store holds this. Nor may the session's
 * keys go to a file: the runtime opens it by itself, and no way was found to stop it.
 */
function trustNobodyElse(): void {
  Deno.env.set("DENO_TLS_CA_STORE", "");
  const keyLog = Deno.env.get("SSLKEYLOGFILE");
  if (keyLog) {
    throw new AgentError(
      "tls_key_log",
      `Cannot use TLS while SSLKEYLOGFILE is set to ${quote(keyLog)}: it would hold the keys`,
      { kind: "usage", hint: "Unset SSLKEYLOGFILE and run the command again." },
    );
  }
}

function clientError(error: unknown): AgentError {
  const detail = describeError(error);
  if (detail.startsWith("invalid peer certificate")) {
    return new AgentError(
      "certificate_refused",
      `The receiver's certificate is not the expected one: ${detail}`,
      {
        kind: "refused",
        hint: "The ticket is of another receiver, or somebody stands in between: " +
          "compare the address, and use the ticket that this receiver has printed.",
        cause: error,
      },
    );
  }
  if (detail.includes("InvalidContentType")) {
    return new AgentError("peer_without_tls", "The receiver does not speak TLS", {
      kind: "refused",
      hint: "Something else listens there, or a receiver with --insecure, which must be given on " +
        "both sides.",
      cause: error,
    });
  }
  return tlsFailed(detail, error);
}

function serverError(error: unknown): AgentError {
  const detail = describeError(error);
  if (detail.includes("InvalidContentType")) {
    return new AgentError("peer_without_tls", "The peer does not speak TLS", {
      kind: "refused",
      hint: "--insecure must be given on both sides or on neither.",
      cause: error,
    });
  }
  return error instanceof Deno.errors.InvalidData
    ? new AgentError("tls_refused", `The TLS handshake was refused: ${detail}`, {
      kind: "refused",
      cause: error,
    })
    : tlsFailed(detail, error);
}

function tlsFailed(detail: string, cause: unknown): AgentError {
  return new AgentError("tls_failed", `The TLS handshake failed: ${detail}`, {
    kind: "link",
    cause,
  });
}

/** Closing what is closed already (or used up by TLS) is no failure. */
function closeQuietly(conn: { close(): void }): void {
  try {
    conn.close();
  } catch (error) {
    if (!(error instanceof Deno.errors.BadResource)) throw error;
  }
}
