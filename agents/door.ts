// Where a receiver waits, and who gets in: TLS with a ticket or a shared secret, plain TCP with
// --insecure, or the one connection on standard input and output that ssh has brought.

import { getNetworkAddress } from "@std/net";
import { AgentError, describeError } from "../src/base/errors.ts";
import type { ReceiveOptions } from "../src/cli/receive_command.ts";
import { type Address, formatAddress } from "../src/link/address.ts";
import { AttemptLimits } from "../src/link/attempts.ts";
import { makeDerivedCertificate, makeSessionCertificate } from "../src/link/certificate.ts";
import { listen, type Listener } from "../src/link/listen.ts";
import { StdioLink } from "../src/link/process_link.ts";
import { readSecretFile, writeTicketFile } from "../src/link/secret_files.ts";
import { acceptSecure } from "../src/link/secure.ts";
import { SecretBook } from "../src/link/secrets.ts";
import { encodeTicket, makeSecret } from "../src/link/ticket.ts";
import { operatorIdentity, ownIdentity, type TlsIdentity } from "../src/link/tls.ts";
import { checkIdentity } from "../src/link/tls_server.ts";
import type { ByteLink } from "../src/wire/byte_link.ts";

/** Somebody who has got in. */
export interface Admitted {
  link: ByteLink;
  /** Where it comes from, for people. */
  peer: string;
  /** The address of this host that it has reached; null when there is none (ssh). */
  reachedHost: string | null;
  encrypted: boolean;
  /** The one migration that it may speak about; empty: any. */
  migrationId: string;
  /** Lets the same sender in again, for that migration, until the function it gives is called. */
  rememberFor: (migrationId: string) => () => void;
}

export interface Door extends Disposable {
  /** Null when nothing listens. */
  readonly address: Address | null;
  /** What the sender needs; null where nothing has to be handed over. */
  readonly ticket: string | null;
  /** No further connection can come after the first. */
  readonly single: boolean;
  /** The next connection; one at a time may wait for it. */
  accept(signal: AbortSignal): Promise<Caller>;
}

/** Somebody at the door. */
export interface Caller {
  /** Finds out who it is. Throws why it will not be served; the connection is closed then. */
  admit(signal: AbortSignal): Promise<Admitted>;
  close(): void;
}

/** @throws AgentError of kind "usage" or `cannot_listen` */
export async function openDoor(
  options: ReceiveOptions,
  { migrationId, signal }: { migrationId: string | null; signal: AbortSignal },
): Promise<Door> {
  if (options.stdio) return new StdioDoor();
  if (options.insecure) {
    return new TcpDoor(listen(options.listen), { admit: null, ticket: null });
  }
  const secrets = new SecretBook();
  if (options.secretFile !== null) {
    const secret = await readSecretFile(options.secretFile, signal);
    secrets.add({ secret, migrationId: "", expiresAtMs: Infinity, once: false });
    const identity = await findIdentity(options, () => makeDerivedCertificate(secret));
    checkIdentity(identity);
    return new TcpDoor(listen(options.listen), { admit: askFor(secrets, identity), ticket: null });
  }
  const expiresAtMs = Date.now() + options.ticketForMs;
  const secret = makeSecret();
  secrets.add({ secret, migrationId: migrationId!, expiresAtMs, once: true });
  const certificate = await makeSessionCertificate({ nowMs: Date.now(), untilMs: expiresAtMs });
  const identity = await findIdentity(options, () => Promise.resolve(certificate));
  checkIdentity(identity);
  const listener = listen(options.listen);
  try {
    const ticket = encodeTicket({
      address: { host: advertisedHost(options), port: listener.address.port },
      server: options.tls === null
        ? { kind: "key", publicKey: certificate.publicKey }
        : { kind: "authority" },
      secret,
      expiresAtMs,
      migrationId: migrationId!,
    });
    if (options.ticketFile !== null) await writeTicketFile(options.ticketFile, ticket);
    return new TcpDoor(listener, { admit: askFor(secrets, identity), ticket });
  } catch (error) {
    listener.close();
    throw error;
  }
}

/** TLS and the proof of one of `secrets`, within the limits on tries. */
function askFor(secrets: SecretBook, identity: TlsIdentity): Admit {
  const limits = new AttemptLimits();
  return async (conn, signal) => {
    const { link, secret, resumeSecret } = await acceptSecure(conn, {
      identity,
      secrets,
      limits,
      signal,
    });
    const { migrationId, once } = secret;
    const rememberFor = (migrationId: string) =>
      secrets.add({ secret: resumeSecret, migrationId, expiresAtMs: Infinity, once: false });
    // Whoever has a secret that is good for more needs no other one.
    return { link, migrationId, rememberFor: once ? rememberFor : ANYBODY.rememberFor };
  };
}

/** Who a connection is, and the link that it is to be spoken to on. */
type Admit = (
  conn: Deno.TcpConn,
  signal: AbortSignal,
) => Promise<Pick<Admitted, "link" | "migrationId" | "rememberFor">>;

/** Where nobody has to prove anything, everybody can come again. */
const ANYBODY = { migrationId: "", rememberFor: () => () => {} };

class TcpDoor implements Door {
  readonly single = false;
  readonly ticket: string | null;
  readonly #listener: Listener;
  /** Null: nobody is asked, and nothing is encrypted. */
  readonly #admit: Admit | null;

  constructor(listener: Listener, options: { admit: Admit | null; ticket: string | null }) {
    this.#listener = listener;
    this.#admit = options.admit;
    this.ticket = options.ticket;
  }

  get address(): Address {
    return this.#listener.address;
  }

  async accept(signal: AbortSignal): Promise<Caller> {
    const conn = await this.#listener.accept(signal);
    const { hostname, port } = conn.remoteAddr;
    const peer = formatAddress({ host: hostname, port });
    const reachedHost = conn.localAddr.hostname;
    const encrypted = this.#admit !== null;
    return {
      admit: async (signal) => {
        const admitted = await this.#admit?.(conn, signal) ?? { link: conn, ...ANYBODY };
        return { ...admitted, peer, reachedHost, encrypted };
      },
      close: () => conn.close(),
    };
  }

  [Symbol.dispose](): void {
    this.#listener.close();
  }
}

class StdioDoor implements Door {
  readonly single = true;
  readonly address = null;
  readonly ticket = null;

  accept(): Promise<Caller> {
    const link = new StdioLink();
    const admitted = { link, peer: "ssh", reachedHost: null, encrypted: true, ...ANYBODY };
    const admit = () => Promise.resolve(admitted);
    return Promise.resolve({ admit, close: () => link.close() });
  }

  [Symbol.dispose](): void {}
}

async function findIdentity(
  { tls }: ReceiveOptions,
  make: () => ReturnType<typeof makeSessionCertificate>,
): Promise<TlsIdentity> {
  if (tls === null) return ownIdentity(await make());
  try {
    return operatorIdentity(await Deno.readTextFile(tls.cert), await Deno.readTextFile(tls.key));
  } catch (cause) {
    throw new AgentError("cannot_read_tls", `Cannot read the TLS files: ${describeError(cause)}`, {
      kind: "usage",
      cause,
      hint: "see --tls-cert and --tls-key",
    });
  }
}

/** What the ticket calls this host: a wildcard address means nothing to others. */
function advertisedHost({ advertise, listen: { host } }: ReceiveOptions): string {
  if (advertise !== null) return advertise;
  if (host === "0.0.0.0") return getNetworkAddress("IPv4") ?? "127.0.0.1";
  if (host === "::") return getNetworkAddress("IPv6") ?? "::1";
  return host;
}
