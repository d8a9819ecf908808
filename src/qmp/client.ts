// A QMP client on one unix socket: greeting, capability negotiation, commands answered by id, events
// handed to whoever listens. Knows no particular command of QEMU.
// Specification: QEMU's docs/interop/qmp-spec.

import { AgentError, describeError, quote } from "../base/errors.ts";
import { abortable } from "../base/deadline.ts";
import { decodeLines, encodeMessage, type QmpMessage } from "./codec.ts";
import type { QmpArgs, QmpResult } from "./commands.ts";
import { type EventListener, EventSubscription, type QmpEvent } from "./events.ts";

/** QEMU refused a command. `errorClass` is QMP's (`GenericError`, `CommandNotFound`, ...). */
export class QmpCommandError extends AgentError {
  readonly errorClass: string;
  readonly command: string;

  constructor(command: string, errorClass: string, description: string) {
    super("qmp_command_failed", `QEMU refused '${command}': ${description}`);
    this.errorClass = errorClass;
    this.command = command;
  }
}

export interface QmpVersion {
  major: number;
  minor: number;
  micro: number;
  package: string;
}

/** The part of `Deno.Conn` that a client needs; tests give it a scripted one. */
export interface QmpLink {
  readonly readable: ReadableStream<Uint8Array>;
  write(data: Uint8Array): Promise<number>;
  close(): void;
}

interface Pending {
  command: string;
  result: PromiseWithResolvers<unknown>;
}

/** How long QEMU may take for its greeting: a QMP socket serves one client at a time. */
const GREETING_TIMEOUT_MS = 5_000;

export class QmpClient implements AsyncDisposable {
  readonly path: string;
  readonly #link: QmpLink;
  readonly #pending = new Map<number, Pending>();
  readonly #listeners = new Set<EventListener>();
  readonly #greeting = Promise.withResolvers<Greeting>();
  readonly #ended = new AbortController();
  readonly #reading: Promise<void>;
  #lastId = 0;
  #sending: Promise<void> = Promise.resolve();
  #version: QmpVersion = { major: 0, minor: 0, micro: 0, package: "" };
  #hasOutOfBand = false;

  private constructor(path: string, link: QmpLink) {
    this.path = path;
    this.#link = link;
    this.#greeting.promise.catch(() => {}); // `open` awaits it; this covers an end before that
    this.#reading = this.#readAll();
  }

  /**
   * Connects to QEMU's QMP socket at `path` and negotiates.
   * @throws AgentError `qmp_unreachable` (kind refused) when nothing listens there or the socket is
   *   in use
   */
  static async connect(path: string, options: { signal: AbortSignal }): Promise<QmpClient> {
    options.signal.throwIfAborted();
    let conn: Deno.UnixConn;
    try {
      conn = await Deno.connect({ transport: "unix", path });
    } catch (error) {
      throw qmpUnreachable(path, error);
    }
    return await QmpClient.open(path, conn, options);
  }

  /** Negotiates on a link that is open already; `path` only names it in messages. */
  static async open(
    path: string,
    link: QmpLink,
    options: { signal: AbortSignal },
  ): Promise<QmpClient> {
    const client = new QmpClient(path, link);
    try {
      const limit = AbortSignal.timeout(GREETING_TIMEOUT_MS);
      const signal = AbortSignal.any([options.signal, limit]);
      try {
        const { version, capabilities } = await abortable(client.#greeting.promise, signal);
        client.#version = version;
        client.#hasOutOfBand = capabilities.includes("oob");
      } catch (error) {
        if (!limit.aborted || options.signal.aborted) throw error;
        throw new AgentError(
          "qmp_unreachable",
          `No QMP greeting from ${quote(path)} within ${GREETING_TIMEOUT_MS / 1000} s`,
          {
            kind: "refused",
            hint: "a QMP socket serves one client at a time: is another program connected to it?",
          },
        );
      }
      const enable = client.#hasOutOfBand ? { enable: ["oob"] } : {};
      await client.execute("qmp_capabilities", enable, options);
      return client;
    } catch (error) {
      await client.close();
      throw error;
    }
  }

  /** The version that QEMU's greeting gave. */
  get version(): QmpVersion {
    return this.#version;
  }

  /** Aborts with the reason when the connection has ended, by QEMU's end or by `close`. */
  get ended(): AbortSignal {
    return this.#ended.signal;
  }

  /**
   * Runs a command and gives its `return` value. Cancelling stops the wait, not the command: QEMU
   * may still carry it out.
   * @param options.outOfBand past the commands before it, and also while QEMU's main loop is held
   *   up by something else; for the few commands that can (`yank`), where QEMU can
   * @throws QmpCommandError when QEMU refuses; AgentError `qmp_lost` when the connection ends
   */
  async execute<C extends string>(
    command: C,
    args?: QmpArgs<C>,
    options: { signal?: AbortSignal; outOfBand?: boolean } = {},
  ): Promise<QmpResult<C>> {
    options.signal?.throwIfAborted();
    this.#ended.signal.throwIfAborted();
    const id = ++this.#lastId;
    const result = Promise.withResolvers<unknown>();
    result.promise.catch(() => {}); // it may be abandoned below
    this.#pending.set(id, { command, result });
    const key = options.outOfBand && this.#hasOutOfBand ? "exec-oob" : "execute";
    const message: QmpMessage = { [key]: command, id };
    if (args && Object.keys(args).length > 0) message.arguments = args;
    await this.#send(encodeMessage(message));
    const answer = options.signal ? abortable(result.promise, options.signal) : result.promise;
    return await answer as QmpResult<C>;
  }

  /**
   * Events from now on, in order. Subscribe *before* the command that causes the event.
   * Dispose (`using`) to stop.
   */
  subscribe(...names: string[]): EventSubscription {
    const wanted = new Set(names);
    const subscription = new EventSubscription(wanted, () => {
      this.#listeners.delete(subscription);
    });
    this.#listeners.add(subscription);
    if (this.#ended.signal.aborted) subscription.fail(this.#lost());
    return subscription;
  }

  /** Ends the connection; QEMU goes on. Waits fail with `qmp_lost`. */
  async close(): Promise<void> {
    this.#end(new AgentError("qmp_lost", `The QMP connection to ${quote(this.path)} was closed`));
    await this.#reading;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** Writes one message at a time: a partial write must not be mixed with another message. */
  #send(data: Uint8Array): Promise<void> {
    const sent = this.#sending.then(async () => {
      for (let at = 0; at < data.length;) at += await this.#link.write(data.subarray(at));
    });
    this.#sending = sent.catch(() => {}); // the reader sees the same broken link and ends everything
    return sent.catch(async () => {
      await this.#reading; // what QEMU has said at last comes before the news that it is gone
      throw this.#lost();
    });
  }

  async #readAll(): Promise<void> {
    let reason = `QEMU closed the QMP connection ${quote(this.path)}`;
    try {
      for await (const message of decodeLines(this.#link.readable)) this.#receive(message);
    } catch (error) {
      reason = `The QMP connection ${quote(this.path)} broke: ${describeError(error)}`;
    }
    this.#end(new AgentError("qmp_lost", reason));
  }

  #receive(message: QmpMessage): void {
    if (typeof message.event === "string") {
      const event: QmpEvent = {
        event: message.event,
        data: (message.data ?? {}) as Record<string, unknown>,
        timestampMs: eventTime(message.timestamp),
      };
      for (const listener of this.#listeners) listener.deliver(event);
      return;
    }
    if (message.QMP !== undefined) {
      this.#greeting.resolve(readGreeting(message.QMP));
      return;
    }
    const pending = typeof message.id === "number" ? this.#pending.get(message.id) : undefined;
    if (!pending) return; // an answer that nobody waits for, such as QEMU's to a broken line
    this.#pending.delete(message.id as number);
    if (message.error) {
      const { class: errorClass, desc } = message.error;
      pending.result.reject(
        new QmpCommandError(pending.command, String(errorClass), String(desc)),
      );
    } else pending.result.resolve(message.return);
  }

  #lost(): Error {
    const reason: unknown = this.#ended.signal.reason;
    return reason instanceof Error
      ? reason
      : new AgentError("qmp_lost", `The QMP connection ${quote(this.path)} broke`);
  }

  #end(error: AgentError): void {
    if (this.#ended.signal.aborted) return;
    this.#ended.abort(error);
    try {
      this.#link.close();
    } catch (closeError) {
      // Already closed by its own end of stream; anything else is worth seeing.
      if (!(closeError instanceof Deno.errors.BadResource)) throw closeError;
    }
    this.#greeting.reject(error);
    for (const { result } of this.#pending.values()) result.reject(error);
    this.#pending.clear();
    for (const listener of this.#listeners) listener.fail(error);
  }
}

/** Why nobody can be spoken to at the socket `path`. */
export function qmpUnreachable(path: string, cause: unknown): AgentError {
  return new AgentError(
    "qmp_unreachable",
    `Cannot connect to the QMP socket ${quote(path)}: ${describeError(cause)}`,
    {
      kind: "refused",
      cause,
      hint: "QEMU needs an option such as '-qmp unix:PATH,server=on,wait=off', and must be running",
    },
  );
}

function eventTime(timestamp: unknown): number {
  const { seconds, microseconds } = (timestamp ?? {}) as Record<string, unknown>;
  return Number(seconds) * 1000 + Number(microseconds) / 1000;
}

interface Greeting {
  version: QmpVersion;
  capabilities: string[];
}

function readGreeting(greeting: unknown): Greeting {
  const { version, capabilities } = greeting as {
    version?: { qemu?: Partial<QmpVersion>; package?: string };
    capabilities?: string[];
  };
  const { major = 0, minor = 0, micro = 0 } = version?.qemu ?? {};
  return {
    version: { major, minor, micro, package: version?.package ?? "" },
    capabilities: capabilities ?? [],
  };
}
