// Waits for connections from senders; TLS and the proof come after it (secure.ts).

import { abortable } from "../base/deadline.ts";
import { AgentError, describeError } from "../base/errors.ts";
import { type Address, formatAddress } from "./address.ts";

/** Listens at `address`; port 0 takes one that is free. Throws `cannot_listen`. */
export function listen(address: Address): Listener {
  try {
    return new Listener(Deno.listen({ hostname: address.host, port: address.port }));
  } catch (error) {
    throw new AgentError(
      "cannot_listen",
      `Cannot listen on '${formatAddress(address)}': ${describeError(error)}`,
      { hint: "Choose an address of this machine and a free port.", cause: error },
    );
  }
}

export class Listener implements Disposable {
  readonly #listener: Deno.TcpListener;
  /** An accept that a cancelled caller left behind: the next caller gets its connection. */
  #accepting: Promise<Deno.TcpConn> | undefined;

  constructor(listener: Deno.TcpListener) {
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
  async accept(signal: AbortSignal): Promise<Deno.TcpConn> {
    signal.throwIfAborted();
    this.#accepting ??= this.#listener.accept();
    const accepting = this.#accepting;
    let conn: Deno.TcpConn;
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
    conn.setNoDelay(true); // control messages are small and waited for
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
