// Puts the `ram` stream behind the local socket that a QEMU migrates into or out of. The bytes are
// QEMU's own and are not looked at; both directions are needed, for its return path.

import { type WireStream } from "../src/wire/stream.ts";
import { relay } from "../src/wire/relay.ts";

/** The source's end: listens at `path` and passes on what QEMU sends there once it connects. */
export class RamListener {
  readonly #listener: Deno.UnixListener;
  readonly #path: string;

  /** Listens at once; the folder of `path` decides who can connect. */
  constructor(path: string, owner: { uid: number; gid: number }) {
    this.#path = path;
    this.#listener = Deno.listen({ transport: "unix", path });
    if (owner.uid !== Deno.uid()) Deno.chownSync(path, owner.uid, owner.gid);
  }

  /** Waits for QEMU and relays until both directions have ended. One QEMU, one stream. */
  async relay(stream: WireStream, signal: AbortSignal): Promise<void> {
    const close = () => this.#listener.close();
    signal.addEventListener("abort", close, { once: true });
    let conn: Deno.UnixConn;
    try {
      conn = await this.#listener.accept();
    } catch (error) {
      signal.throwIfAborted();
      throw error;
    } finally {
      signal.removeEventListener("abort", close);
      if (!signal.aborted) close();
    }
    await relayConnection(conn, stream, signal);
  }
}

/** The destination's end: connects to QEMU at `path` and relays until both directions have ended. */
export async function relayToSocket(
  path: string,
  options: { stream: WireStream; signal: AbortSignal },
): Promise<void> {
  const conn = await Deno.connect({ transport: "unix", path });
  await relayConnection(conn, options.stream, options.signal);
}

async function relayConnection(
  conn: Deno.UnixConn,
  stream: WireStream,
  signal: AbortSignal,
): Promise<void> {
  try {
    await relay(conn, stream, { signal });
  } catch (error) {
    stream.reset("relay_ended", "the migration has ended");
    throw error;
  } finally {
    conn.close();
  }
}
