// Somebody on the path between sender and receiver: one who writes down what passes, and one who ends
// TLS himself, with a certificate of his own.

import { abortable } from "../../src/base/deadline.ts";
import { makeSessionCertificate } from "../../src/link/certificate.ts";
import type { Link } from "../../src/link/link.ts";
import { closeQuietly, isHungUp } from "./raw_talk.ts";

/** Passes TCP on and keeps the bytes that clients have sent. */
export class RecordingRelay implements AsyncDisposable {
  readonly port: number;
  /** One entry per connection. */
  readonly recorded: Uint8Array[] = [];
  readonly #listener: Deno.TcpListener;
  readonly #work: Promise<void>;

  constructor(options: { to: number }) {
    this.#listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    this.port = this.#listener.addr.port;
    this.#work = this.#serve(options.to);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#listener.close();
    await this.#work;
  }

  async #serve(port: number): Promise<void> {
    const connections: Promise<unknown>[] = [];
    for await (const client of this.#listener) {
      const server = await Deno.connect({ hostname: "127.0.0.1", port });
      const index = this.recorded.push(new Uint8Array()) - 1;
      const keep = (bytes: Uint8Array) => {
        this.recorded[index] = new Uint8Array([...this.recorded[index]!, ...bytes]);
      };
      connections.push(pump(client, server, keep), pump(server, client, () => {}));
    }
    await Promise.allSettled(connections);
  }
}

/**
 * Ends TLS towards whoever comes, with a certificate made for it, and hands each connection over.
 * `publicKey` is what a victim would have to trust.
 */
export class Impostor implements AsyncDisposable {
  readonly port: number;
  readonly publicKey: Uint8Array;
  /** How much clients have said inside TLS. */
  heardBytes = 0;
  readonly #close: () => void;
  readonly #work: Promise<void>;

  private constructor(parts: {
    port: number;
    publicKey: Uint8Array;
    close: () => void;
    work: (impostor: Impostor) => Promise<void>;
  }) {
    this.port = parts.port;
    this.publicKey = parts.publicKey;
    this.#close = parts.close;
    this.#work = parts.work(this);
  }

  /** @param options.dial makes the impostor's own connection to the real receiver */
  static async start(
    options: { dial: () => Promise<Link>; signal: AbortSignal },
  ): Promise<Impostor> {
    const nowMs = Date.now();
    const certificate = await makeSessionCertificate({ nowMs, untilMs: nowMs + 3_600_000 });
    const stop = new AbortController();
    const signal = AbortSignal.any([stop.signal, options.signal]);
    const listener = Deno.listenTls({
      hostname: "127.0.0.1",
      port: 0,
      cert: certificate.certPem,
      key: certificate.keyPem,
      alpnProtocols: ["migrate-agent/1"],
    });
    const work = async (impostor: Impostor) => {
      const connections: Promise<unknown>[] = [];
      try {
        while (true) {
          const conn = await abortable(listener.accept(), signal);
          const meeting = impostor.#meet(conn, options.dial);
          meeting.catch(() => {}); // a victim who notices hangs up
          connections.push(meeting);
        }
      } catch (error) {
        if (!signal.aborted) throw error;
      } finally {
        listener.close();
      }
      await Promise.allSettled(connections);
    };
    return new Impostor({
      port: listener.addr.port,
      publicKey: certificate.publicKey,
      close: () => stop.abort(),
      work,
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#close();
    await this.#work;
  }

  async #meet(client: Deno.TlsConn, dial: () => Promise<Link>): Promise<void> {
    try {
      await client.handshake();
    } catch (error) {
      closeQuietly(client);
      throw error;
    }
    const server = await dial();
    await Promise.allSettled([
      pump(client, server, (bytes) => this.heardBytes += bytes.length),
      pump(server, client, () => {}),
    ]);
  }
}

/** Copies until either end is gone, however it went, then ends both. */
async function pump(
  from: Link,
  to: Link,
  hear: (bytes: Uint8Array) => void,
): Promise<void> {
  const buffer = new Uint8Array(65536);
  try {
    for (let count = await from.read(buffer); count !== null; count = await from.read(buffer)) {
      hear(buffer.slice(0, count));
      for (let at = 0; at < count;) at += await to.write(buffer.subarray(at, count));
    }
  } catch (error) {
    if (!isHungUp(error)) throw error;
  } finally {
    closeQuietly(from);
    closeQuietly(to);
  }
}
