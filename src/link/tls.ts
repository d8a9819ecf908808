// TLS below the proof: who a receiver says that it is, whom a sender trusts, and the sender's
// handshake (the receiver's is in tls_server.ts). Only `Deno.listenTls` and `Deno.startTls`: node:tls
// is not used (it checks less and loses data).
// Specification: docs/protocol.md, "Before the wire".

import { createHash } from "node:crypto";
import { abortable } from "../base/deadline.ts";
import { AgentError, describeError, quote } from "../base/errors.ts";
import {
  type Certificate,
  hashPublicKey,
  makeTrustAnchor,
  PUBLIC_KEY_BYTES,
  SERVER_NAME,
} from "./certificate.ts";
import { closeQuietly, type Link, linkEnded } from "./link.ts";

/** Both sides must offer it: no other protocol's client or server can be taken for ours. */
export const ALPN = "migrate-agent/1";

/** What the proof is bound to: the same 32 bytes on both sides, or the proof fails. */
export type Binding = Uint8Array;

/** With an operator's own certificate, which TLS has checked against the operator's authority. */
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

/** Certificate or key are not what TLS can use. */
export function badCertificate(cause: unknown): AgentError {
  return new AgentError(
    "bad_tls_certificate",
    `Cannot use the TLS certificate and key: ${describeError(cause)}`,
    {
      kind: "usage",
      hint: "Give --tls-cert the certificate (with its chain) and --tls-key its key, in PEM.",
      cause,
    },
  );
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
    refuseKeyLog();
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
 * A TLS connection as a link. Deno gives one record (16 KiB) a read: the wire's reader asks for the
 * rest of a frame into its place, so collecting records here would only copy every byte once more.
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
 * named is trusted. A test with an authority in the system's store holds this.
 */
function trustNobodyElse(): void {
  Deno.env.set("DENO_TLS_CA_STORE", "");
}

/**
 * The sessions' keys may not go to a file: the runtime opens it by itself, on either side, and no way
 * was found to stop it. Throws `tls_key_log`.
 */
export function refuseKeyLog(): void {
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
