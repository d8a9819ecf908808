// NBD connections of fake QEMUs: real sockets, so that whoever stands between them (a probe, a tunnel)
// has something to stand between. One byte from the server is the whole negotiation.

import { isClosed, Refusal } from "./refusal.ts";

const HELLO = Uint8Array.of(0x4e);

/** QMP's SocketAddress, as far as it is used here. */
export type Place = { type: "inet"; host: string; port: number } | { type: "unix"; path: string };

export class FakeNbdServer {
  readonly #listener: Deno.Listener;
  readonly #conns = new Set<Deno.Conn>();
  /** Resolves when it is stopped and nothing of it is under way. */
  readonly done: Promise<void>;

  /** @throws Refusal as QEMU words it */
  constructor(place: Place) {
    try {
      this.#listener = place.type === "inet"
        ? Deno.listen({ hostname: place.host, port: place.port })
        : Deno.listen({ transport: "unix", path: place.path });
    } catch (error) {
      if (error instanceof Deno.errors.AddrInUse) throw new Refusal("Address already in use");
      if (error instanceof Deno.errors.NotFound) throw new Refusal("No such file or directory");
      throw error;
    }
    this.done = this.#serve();
  }

  stop(): void {
    closeQuietly(this.#listener);
    for (const conn of this.#conns) closeQuietly(conn);
  }

  async #serve(): Promise<void> {
    const serving: Promise<void>[] = [];
    try {
      for (;;) serving.push(this.#serveOne(await this.#listener.accept()));
    } catch (error) {
      if (!isClosed(error)) throw error;
    }
    await Promise.all(serving);
  }

  async #serveOne(conn: Deno.Conn): Promise<void> {
    this.#conns.add(conn);
    try {
      await conn.write(HELLO);
      await conn.read(new Uint8Array(1)); // a client says nothing until it leaves
    } catch (error) {
      if (!isClosed(error)) throw error;
    } finally {
      this.#conns.delete(conn);
      closeQuietly(conn);
    }
  }
}

export class FakeNbdClient {
  /** Resolves when the connection is gone, in whatever way. */
  readonly lost: Promise<void>;
  readonly #conn: Deno.Conn;

  private constructor(conn: Deno.Conn) {
    this.#conn = conn;
    this.lost = this.#waitLost();
  }

  /** @throws Refusal when nobody serves there */
  static async connect(place: Place): Promise<FakeNbdClient> {
    let conn: Deno.Conn | undefined;
    try {
      conn = place.type === "inet"
        ? await Deno.connect({ hostname: place.host, port: place.port })
        : await Deno.connect({ transport: "unix", path: place.path });
      if (await conn.read(new Uint8Array(1)) !== null) return new FakeNbdClient(conn);
    } catch (error) {
      const refused = error instanceof Deno.errors.ConnectionRefused ||
        error instanceof Deno.errors.NotFound;
      if (!refused && !isClosed(error)) throw error;
    }
    if (conn) closeQuietly(conn);
    throw new Refusal("Failed to connect: Connection refused");
  }

  close(): void {
    closeQuietly(this.#conn);
  }

  async #waitLost(): Promise<void> {
    try {
      await this.#conn.read(new Uint8Array(1));
    } catch (error) {
      if (!isClosed(error)) throw error;
    }
    this.close();
  }
}

function closeQuietly(closable: { close(): void }): void {
  try {
    closable.close();
  } catch (error) {
    if (!isClosed(error)) throw error;
  }
}
