// Puts streams of the session behind local unix sockets of QEMU, and the other way round: the RAM
// stream on both sides, and in tunnel mode one stream per NBD connection. The bytes are QEMU's own
// and are not looked at.

import { AgentError, describeError } from "../src/base/errors.ts";
import type { NbdConnections } from "../src/guest/nbd_connections.ts";
import { giveTo, type PrivateFolder } from "../src/guest/private_folder.ts";
import { relay } from "../src/wire/relay.ts";
import type { WireStream } from "../src/wire/stream.ts";

/** A unix socket of ours that one QEMU connects to. */
export class LocalListener implements NbdConnections, Disposable {
  readonly path: string;
  readonly #listener: Deno.UnixListener;
  /** Those of `relayAll` that are up, by number, and what ends the wait for a stream. */
  readonly #open = new Map<number, { conn: Deno.UnixConn; severed: AbortController }>();
  #count = 0;
  #closed = false;

  private constructor(path: string, listener: Deno.UnixListener) {
    this.path = path;
    this.#listener = listener;
  }

  /** Listens as `name` in `folder`, whose owner is the only one to get in. */
  static async open(folder: PrivateFolder, name: string): Promise<LocalListener> {
    const path = `${folder.path}/${name}`;
    const listener = new LocalListener(path, Deno.listen({ transport: "unix", path }));
    await giveTo(path, folder.owner);
    return listener;
  }

  /** Relays the first connection to `stream` until both directions have ended. */
  async relayOne(stream: WireStream, signal: AbortSignal): Promise<void> {
    const conn = await this.#accept(signal);
    this[Symbol.dispose]();
    await relayConnection(conn, stream, signal);
  }

  /**
   * Relays every connection to a stream of its own, until this is disposed, `signal` aborts, or one
   * fails for a reason that `forgive` does not take.
   */
  async relayAll(
    open: (signal: AbortSignal) => Promise<WireStream>,
    { forgive, signal }: { forgive: Forgive; signal: AbortSignal },
  ): Promise<void> {
    const failure = new AbortController();
    const both = AbortSignal.any([signal, failure.signal]);
    const relayNext = async (conn: Deno.UnixConn) => {
      const id = ++this.#count;
      const severed = new AbortController();
      this.#open.set(id, { conn, severed });
      try {
        const stream = await open(AbortSignal.any([both, severed.signal]));
        await relayStream(conn, stream, both);
      } catch (error) {
        if (this.#open.has(id)) throw error; // else it was severed
      } finally {
        if (this.#open.delete(id)) conn.close();
      }
    };
    try {
      while (true) {
        const conn = await this.#accept(both);
        forgive(relayNext(conn)).catch((error) => failure.abort(error));
      }
    } catch (error) {
      if (both.aborted || !this.#closed) throw error;
    } finally {
      this[Symbol.dispose]();
    }
  }

  /** See NbdConnections: of those that `relayAll` serves. */
  list(): Promise<Set<string>> {
    return Promise.resolve(new Set([...this.#open.keys()].map(String)));
  }

  /** See NbdConnections. What was written and not passed on yet goes with the connection. */
  sever(): Promise<void> {
    for (const [id, { conn, severed }] of this.#open) {
      this.#open.delete(id);
      severed.abort();
      conn.close();
    }
    return Promise.resolve();
  }

  async #accept(signal: AbortSignal): Promise<Deno.UnixConn> {
    signal.throwIfAborted();
    const close = () => this[Symbol.dispose]();
    signal.addEventListener("abort", close, { once: true });
    try {
      return await this.#listener.accept();
    } catch (error) {
      signal.throwIfAborted();
      throw error;
    } finally {
      signal.removeEventListener("abort", close);
    }
  }

  [Symbol.dispose](): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#listener.close();
  }
}

/** Takes the sting out of a failure that is none, such as one that a lost connection has caused. */
export type Forgive = (work: Promise<void>) => Promise<void>;

/** A relay whose socket stays open when it fails, until somebody closes it. */
export interface LocalRelay {
  readonly done: Promise<void>;
  close(): void;
}

/** Connects to QEMU's socket at `path` and relays `stream` until both directions have ended. */
export async function relayToSocket(
  stream: WireStream,
  { path, signal }: { path: string; signal: AbortSignal },
): Promise<LocalRelay> {
  const conn = await Deno.connect({ transport: "unix", path });
  let open = true;
  const close = () => {
    if (open) conn.close();
    open = false;
  };
  return { done: relayStream(conn, stream, signal).then(close), close };
}

/**
 * Connects every stream that `accept` gives to the socket that `pathFor` finds for it, until `signal`
 * aborts or one fails for a reason that `forgive` does not take.
 */
export async function relayAllToSocket(
  accept: (signal: AbortSignal) => Promise<WireStream>,
  options: {
    pathFor: (stream: WireStream) => Promise<string>;
    forgive: Forgive;
    signal: AbortSignal;
  },
): Promise<void> {
  const { pathFor, forgive, signal } = options;
  const failure = new AbortController();
  const both = AbortSignal.any([signal, failure.signal]);
  const relayNext = async (stream: WireStream) => {
    const conn = await Deno.connect({ transport: "unix", path: await pathFor(stream) });
    await relayConnection(conn, stream, both);
  };
  while (true) {
    const stream = await accept(both);
    forgive(relayNext(stream)).catch((error) => failure.abort(error));
  }
}

async function relayConnection(
  conn: Deno.UnixConn,
  stream: WireStream,
  signal: AbortSignal,
): Promise<void> {
  try {
    await relayStream(conn, stream, signal);
  } finally {
    conn.close();
  }
}

async function relayStream(
  conn: Deno.UnixConn,
  stream: WireStream,
  signal: AbortSignal,
): Promise<void> {
  try {
    await relay(conn, stream, { signal });
  } catch (error) {
    // When this side has given up, the peer is to hear of that, and not of a broken stream.
    if (!signal.aborted) stream.reset("relay_ended", "the connection behind this stream has ended");
    if (signal.aborted || error instanceof AgentError) throw error;
    // The other end of a local socket is QEMU, so it is QEMU that has ended or given up.
    throw new AgentError(
      "qemu_connection_lost",
      `QEMU has closed its connection for the ${stream.kind} stream: ${describeError(error)}`,
      { cause: error },
    );
  }
}
