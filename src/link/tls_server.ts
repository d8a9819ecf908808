// The receiver's side of TLS, on a connection that was accepted without it. Deno's own TLS listener
// takes version 1.2, keeps the socket of a client that never ends its handshake open for good
// (2.7.11: closing such a connection closes nothing), and cannot begin on an accepted connection. So
// the client's first message is read and checked here, and only then the bytes are passed on to a
// TLS connection within this process, over loopback. Its listener is there for that moment only.
// The price is one more copy of every byte: 0.3 s of the receiver's CPU time a gigabyte, where TLS
// itself takes 0.4 (test/bench/relay.ts --tls).

import { abortable } from "../base/deadline.ts";
import { AgentError } from "../base/errors.ts";
import { setNoDelay } from "../base/no_delay.ts";
import { HelloRefused, readClientHello } from "./client_hello.ts";
import { closeQuietly, type Link, writeExactly } from "./link.ts";
import {
  ALPN,
  badCertificate,
  refuseKeyLog,
  shakeHands,
  type TlsIdentity,
  TlsLink,
} from "./tls.ts";

const LOOPBACK = "127.0.0.1";
const COPY_BYTES = 256 * 1024;

export interface TlsServerOptions {
  identity: TlsIdentity;
  signal: AbortSignal;
}

/** Throws `bad_tls_certificate` when TLS cannot use certificate and key, or `tls_key_log`. */
export function checkIdentity(identity: TlsIdentity): void {
  listenInside(identity).close();
}

/**
 * TLS 1.3 as the server on `conn`, which is used up. Throws what `readClientHello` and `shakeHands`
 * throw, or the signal's reason; the connection is closed then. Safe to cancel.
 */
export async function acceptTls(conn: Link, options: TlsServerOptions): Promise<Link> {
  const { identity, signal } = options;
  try {
    const hello = await readClientHello(conn, signal);
    const [near, far] = await connectInside(identity, signal);
    const relay = new Relay({ outer: conn, inner: near, first: hello });
    try {
      await shakeHands(far, { signal });
    } catch (error) {
      // The alert that says why goes out first, unless time is up.
      await Promise.race([relay.said, ended(signal)]);
      relay.cut();
      throw error;
    }
    return new RelayedLink(far, relay);
  } catch (error) {
    if (error instanceof HelloRefused) await sayAlert(conn, { alert: error.alert, signal });
    closeQuietly(conn);
    throw error;
  }
}

/** Both ends of a connection within this process, the second one a TLS server. */
async function connectInside(
  identity: TlsIdentity,
  signal: AbortSignal,
): Promise<[Deno.TcpConn, Deno.TlsConn]> {
  using listener = listenInside(identity);
  const near = await Deno.connect({ hostname: LOOPBACK, port: listener.addr.port });
  near.setNoDelay(true);
  const { port } = near.localAddr;
  try {
    for (;;) {
      const far = await abortable(listener.accept(), signal);
      if ((far.remoteAddr as Deno.NetAddr).port === port) {
        await setNoDelay({ pid: Deno.pid, localPort: near.remoteAddr.port, remotePort: port });
        return [near, far];
      }
      far.close(); // somebody else on this host was quicker: no connection of ours
    }
  } catch (error) {
    near.close();
    throw error;
  }
}

function listenInside(identity: TlsIdentity): Deno.TlsListener {
  const { certPem: cert, keyPem: key } = identity;
  refuseKeyLog();
  try {
    return Deno.listenTls({ hostname: LOOPBACK, port: 0, cert, key, alpnProtocols: [ALPN] });
  } catch (error) {
    throw error instanceof Deno.errors.InvalidData ? badCertificate(error) : error;
  }
}

/** Says why, to a peer that may not listen any more. */
async function sayAlert(
  conn: Link,
  { alert, signal }: { alert: Uint8Array; signal: AbortSignal },
): Promise<void> {
  try {
    await writeExactly(conn, alert, signal);
  } catch (error) {
    if (!signal.aborted && !(error instanceof AgentError)) throw error;
  }
}

/** Passes bytes between the accepted connection and the one within this process. */
class Relay {
  readonly #outer: Link;
  readonly #inner: Link;
  /** Resolves when everything that TLS has to say is with the accepted connection. */
  readonly said: Promise<void>;

  /** `first` was read from the outer connection already. */
  constructor({ outer, inner, first }: { outer: Link; inner: Link; first: Uint8Array }) {
    this.#outer = outer;
    this.#inner = inner;
    const heard = this.#run(async () => {
      await writeExactly(inner, first, new AbortController().signal);
      await copy(outer, inner);
    });
    this.said = this.#run(() => copy(inner, outer));
    Promise.all([heard, this.said]).then(() => this.cut());
  }

  /** Ends both connections at once. */
  cut(): void {
    closeQuietly(this.#outer);
    closeQuietly(this.#inner);
  }

  /** One direction. Its failure ends both, which TLS on either side tells from an orderly end. */
  async #run(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch {
      this.cut();
    }
  }
}

/** TLS with a relay below it. */
class RelayedLink extends TlsLink {
  readonly #relay: Relay;

  constructor(conn: Deno.TlsConn, relay: Relay) {
    super(conn);
    this.#relay = relay;
  }

  override close(): void {
    super.close();
    this.#relay.cut();
  }
}

async function copy(from: Link, to: Link): Promise<void> {
  const room = new Uint8Array(COPY_BYTES);
  for (let count = await from.read(room); count !== null; count = await from.read(room)) {
    // Not writeExactly: this is the way of every byte.
    let done = await to.write(room.subarray(0, count));
    while (done < count) done += await to.write(room.subarray(done, count));
  }
  await to.closeWrite();
}

function ended(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}
