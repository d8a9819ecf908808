// Waits for connections from senders, plain or with TLS (tls.ts makes the listener for that).

import { abortable } from "../base/deadline.ts";
import { AgentError, describeError } from "../base/errors.ts";
import { type Address, formatAddress } from "./address.ts";

/** Listens at `address`; port 0 takes one that is free. Throws `cannot_listen`. */
export function listen(address: Address): Listener<Deno.TcpConn> {
  try {
    return new Listener(Deno.listen({ hostname: address.host, port: address.port }));
  } catch (error) {
    throw cannotListen(address, error);
  }
}

export function cannotListen(address: Address, cause: unknown): AgentError {
  return new AgentError(
    "cannot_listen",
    `Cannot listen on '${formatAddress(address)}': ${describeError(cause)}`,
    { hint: "Choose an address of this machine and a free port.", cause },
  );
}

export class Listener<C extends Deno.TcpConn | Deno.TlsConn> implements Disposable {
  readonly #listener: Deno.Listener<C, Deno.NetAddr>;
  /** An accept that a cancelled caller left behind: the next caller gets its connection. */
  #accepting: Promise<C> | undefined;

  constructor(listener: Deno.Listener<C, Deno.NetAddr>) {
    this.#listener = listener;
  }

  /** Where it listens, with the port that it got. */
  get address(): Address {
    const { hostname, port } = this.#listener.addr;
    return { host: hostname, port };
  }

  /**
   * The next connection. Throws the signal's reason, or `cannot_accept`. Safe to cancel: no
   * connection is lost by it. One caller at a time.
   */
  async accept(signal: AbortSignal): Promise<C> {
    signal.throwIfAborted();
    this.#accepting ??= this.#listener.accept();
    const accepting = this.#accepting;
    let conn: C;
    try {
      conn = await abortable(accepting, signal);
    } catch (error) {
      if (signal.aborted) throw error;
      this.#accepting = undefined;
      throw new AgentError(
        "cannot_accept",
        `Cannot accept connections on '${formatAddress(this.address)}': ${describeError(error)}`,
        { kind: "link", cause: error },
      );
    }
    this.#accepting = undefined;
    // Control messages are small and waited for. Deno 2.7 cannot set this on a TLS connection.
    if ("setNoDelay" in conn) conn.setNoDelay(true);
    return conn;
  }

  /** Stops listening; a connection that nobody has taken is closed. */
  close(): void {
    // That accept now fails, unless a connection came just before.
    this.#accepting?.then((conn) => conn.close(), () => {});
    this.#accepting = undefined;
    this.#listener.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
