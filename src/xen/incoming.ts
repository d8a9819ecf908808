// A Xen domain on its way in: stands between the socket that carries the other host's bytes and
// `xl migrate-receive`. Puts this host's configuration in the place of the sender's, keeps libxl's END
// back until nobody else has the images, and says "cleared to unpause" itself when the agents have
// decided so, unless the domain's device model has ended since it was loaded.
// Specification: docs/xen.md, "The conversation".

import { abortable } from "../base/deadline.ts";
import { AgentError, describeError, quote, toAgentError } from "../base/errors.ts";
import type { RegisterUndo } from "../guest/destination.ts";
import {
  BANNER,
  type ByteSource,
  conversationError,
  PERMISSION,
  readExactly,
  readMessage,
  READY,
  REPORT,
  writeAll,
} from "./conversation.ts";
import { freeSocket } from "./domain.ts";
import { waitEnd } from "./hold.ts";
import { setPaused } from "./recovery.ts";
import { makeHeader, MigrationStream } from "./stream/migration_stream.ts";
import { destroyDomain, type DomainName, findByUuid } from "./xl.ts";
import { xlFailure, XlProcess } from "./xl_process.ts";

const CHUNK_BYTES = 1 << 18;
const XL_END_TIMEOUT_MS = 60_000;
/** More than a pipe holds: once so much has gone to xl, it reads the memory, and the domain is there. */
const SURELY_MADE_BYTES = 2 ** 20;

export interface XenIncomingOptions {
  uuid: string;
  name: string;
  /** The domain's configuration at this host, as JSON. */
  config: string;
  /** Whether the guest is meant to run: xl is told at its start; `resume` has the last word. */
  running: boolean;
  /** Resolves when the images are free for the device model. */
  imagesFree: () => Promise<void>;
}

export class XenIncoming implements Disposable {
  readonly #options: XenIncomingOptions;
  readonly #failed = new AbortController();
  readonly #loaded = Promise.withResolvers<void>();
  #listener: Deno.UnixListener | undefined;
  #conn: Deno.UnixConn | undefined;
  #xl: XlProcess | undefined;
  #toXl: WritableStreamDefaultWriter<Uint8Array> | undefined;
  #fromXl: ByteSource | undefined;
  /** Looked up while the guest still runs at the source. */
  #domain: Promise<DomainName | null> | undefined;
  /** To that of the domain that has been loaded. */
  #deviceModel: Deno.UnixConn | undefined;
  #ending = false;

  constructor(options: XenIncomingOptions) {
    this.#options = options;
    this.#loaded.promise.catch(() => {}); // `waitLoaded` awaits it
  }

  /** Aborts when xl or the device model has ended too early, or what came for xl was wrong. */
  get failed(): AbortSignal {
    return this.#failed.signal;
  }

  /** The process of `xl migrate-receive`, for a journal; null before `listen`. */
  get xlPid(): number | null {
    return this.#xl?.pid ?? null;
  }

  /** Starts xl and listens on the unix socket `path` for what it shall receive. */
  async listen(
    path: string,
    options: { onEffect: RegisterUndo; signal: AbortSignal },
  ): Promise<void> {
    const { uuid, name } = this.#options;
    const what = "destroy the domain that was received";
    await options.onEffect(what, () => this.abort(), { kind: "xen_domain", uuid, name });
    options.signal.throwIfAborted();
    const listener = this.#listener = Deno.listen({ transport: "unix", path });
    const args = this.#options.running ? ["migrate-receive"] : ["migrate-receive", "-p"];
    const xl = this.#xl = XlProcess.start(args, "piped");
    this.#toXl = xl.child.stdin.getWriter();
    this.#fromXl = byteSource(xl.child.stdout);
    xl.ended.then((end) => {
      if (!this.#ending) this.#fail(xlFailure("xl migrate-receive", end));
    });
    this.#relay(listener).catch((error) => this.#fail(error));
  }

  /**
   * Waits until everything has been loaded, and its device model is there.
   * @throws AgentError `xl_ended`, `xl_conversation`, `device_model_ended`
   */
  async waitLoaded(signal: AbortSignal): Promise<void> {
    await abortable(this.#loaded.promise, AbortSignal.any([signal, this.#failed.signal]));
  }

  /**
   * Lets xl have its way: the guest gets its name and, if it is to run, runs from now on.
   * @throws AgentError `xl_refused`: it has not run, and xl has destroyed it. After any other error it
   *   may have run.
   */
  async resume(run: boolean): Promise<Date> {
    this.#failed.signal.throwIfAborted();
    this.#ending = true;
    try {
      return await this.#letRun(run);
    } finally {
      closeConn(this.#deviceModel);
    }
  }

  /** Ends what was begun: xl first, because the end of its input would count as the stream's. */
  async abort(): Promise<void> {
    this.#ending = true;
    this[Symbol.dispose]();
    const xl = this.#xl;
    if (xl) {
      xl.terminate();
      await xl.waitEnd(XL_END_TIMEOUT_MS);
      // Its helper reads on until there is no more, and holds the domain's memory.
      await this.#toXl?.abort().catch(() => {}); // nobody reads: closed all the same
      await xl.waitHelper(XL_END_TIMEOUT_MS);
    }
    const domain = await findByUuid(this.#options.uuid);
    if (domain) await destroyDomain(domain.domid);
  }

  [Symbol.dispose](): void {
    for (const held of [this.#listener, this.#conn, this.#deviceModel]) closeConn(held);
  }

  async #letRun(run: boolean): Promise<Date> {
    await this.#write(PERMISSION);
    await readMessage(this.#fromXl!, REPORT);
    const [status] = await readExactly(this.#fromXl!, 1);
    const resumedAt = new Date();
    const end = await this.#xl!.waitEnd(XL_END_TIMEOUT_MS);
    if (status !== 0) {
      const { message } = xlFailure("xl migrate-receive", end);
      throw new AgentError("xl_refused", message, { side: "destination" });
    }
    if (run !== this.#options.running) {
      const domain = await findByUuid(this.#options.uuid);
      if (domain) await setPaused(domain.domid, !run);
    }
    return resumedAt;
  }

  async #relay(listener: Deno.UnixListener): Promise<void> {
    const conn = this.#conn = await listener.accept();
    listener.close();
    const back = this.#back(conn);
    await Promise.all([this.#forward(conn), back]);
  }

  async #forward(conn: Deno.UnixConn): Promise<void> {
    const stream = new MigrationStream();
    const buffer = new Uint8Array(CHUNK_BYTES);
    while (true) {
      const count = await conn.read(buffer);
      // Not passed on: to xl the end of its input is the end of the stream.
      if (count === null) return stream.checkEnded();
      for (const { kind, bytes } of stream.feed(buffer.subarray(0, count))) {
        if (kind === "permission") throw conversationError("the stream goes on after its end");
        if (kind === "end") await this.#options.imagesFree();
        await this.#write(kind === "header" ? makeHeader(this.#options.config) : bytes);
      }
      if (stream.progress.pageBytes > SURELY_MADE_BYTES) this.#domain ??= this.#lookUp();
    }
  }

  async #back(conn: Deno.UnixConn): Promise<void> {
    for (const message of [BANNER, READY]) {
      await readMessage(this.#fromXl!, message);
      await writeAll(conn, message);
    }
    await this.#watchDeviceModel();
    this.#loaded.resolve();
  }

  /**
   * xl does not look at the device model again before it lets the domain run. The end of this
   * connection, which nobody else needs meanwhile, is the device model's until then. Nothing is asked:
   * the guest waits.
   */
  async #watchDeviceModel(): Promise<void> {
    const { name } = this.#options;
    const fail = (cause: unknown) => {
      const text =
        `The device model of domain ${quote(name)}, which has been loaded, does not live: ` +
        describeError(cause);
      this.#fail(new AgentError("device_model_ended", text, { side: "destination", cause }));
    };
    try {
      const domain = await this.#domain ?? await findByUuid(this.#options.uuid);
      if (!domain) throw new Error("the domain is gone");
      const path = freeSocket(domain.domid);
      const conn = this.#deviceModel = await Deno.connect({ transport: "unix", path });
      waitEnd(conn).then(() => fail("it has ended"), fail);
    } catch (error) {
      fail(error);
    }
  }

  /** Null when it cannot be found yet. */
  async #lookUp(): Promise<DomainName | null> {
    return await findByUuid(this.#options.uuid).catch(() => null); // looked for again when it is needed
  }

  async #write(bytes: Uint8Array): Promise<void> {
    await this.#toXl!.write(bytes);
  }

  #fail(error: unknown): void {
    if (this.#ending) return;
    const failure = toAgentError(error, { side: "destination" });
    this.#failed.abort(failure);
    this.#loaded.reject(failure);
  }
}

/** It may be closed already, or may never have been opened. */
function closeConn(held: { close(): void } | undefined): void {
  try {
    held?.close();
  } catch (error) {
    if (!(error instanceof Deno.errors.BadResource)) throw error;
  }
}

/** A web stream as something that is read into buffers. */
function byteSource(stream: ReadableStream<Uint8Array>): ByteSource {
  const reader = stream.getReader();
  let rest = new Uint8Array(0);
  return {
    async read(into) {
      while (rest.length === 0) {
        const { value, done } = await reader.read();
        if (done) return null;
        rest = new Uint8Array(value);
      }
      const count = Math.min(rest.length, into.length);
      into.set(rest.subarray(0, count));
      rest = rest.subarray(count);
      return count;
    },
  };
}
