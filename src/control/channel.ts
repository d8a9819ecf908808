// Requests, replies and notifications on the control stream. It checks every body against its
// schema, brings replies to whoever asked, and runs the handlers; the order of the requests is the
// agents' story. Specification: docs/protocol.md, section 6.

import * as v from "valibot";
import { abortable, abortReason } from "../base/deadline.ts";
import { AgentError, quote, type Side, toAgentError } from "../base/errors.ts";
import { errorFromBody, errorToBody } from "./error_body.ts";
import {
  badMessage,
  decodeMessage,
  encodeMessage,
  type Message,
  readUnit,
} from "./message_codec.ts";
import {
  type NotificationBody,
  type NotificationName,
  NOTIFICATIONS,
  type ReplyBody,
  type RequestBody,
  type RequestName,
  REQUESTS,
} from "./messages.ts";

/** Requests of one side that may wait for their replies. */
export const MAX_OPEN_REQUESTS = 16;

/** The control stream: a WireStream. */
export interface ControlStream {
  read(buffer: Uint8Array): Promise<number | null>;
  write(chunk: Uint8Array): Promise<number>;
  closeWrite(): Promise<void>;
  reset(code: string, text: string): void;
}

/**
 * What answers each request. What it throws goes to the peer as the refusal. `signal` aborts when
 * the channel ends.
 */
export type Handlers = {
  [N in RequestName]?: (body: RequestBody<N>, signal: AbortSignal) => Promise<ReplyBody<N>>;
};

export type Notification = {
  [N in NotificationName]: { name: N; body: NotificationBody<N> };
}[NotificationName];

export interface ChannelOptions {
  /** This side; the other one is what the peer's errors are put down to when they name none. */
  side: Side;
  /** None: every request is refused. */
  handlers?: Handlers;
  onNotification: (notification: Notification) => void;
}

/**
 * Starts to read at once. `signal` aborts when the channel has ended, with an AgentError as the
 * reason: what ended the stream, `bad_message`, or `control_closed` after the peer's orderly end.
 */
export class ControlChannel {
  readonly #stream: ControlStream;
  readonly #options: ChannelOptions;
  readonly #peerSide: Side;
  readonly #ended = new AbortController();
  /** Requests without an answer yet; also those that nobody waits for any more. */
  readonly #waiting = new Map<number, PromiseWithResolvers<Message> & { name: RequestName }>();
  #lastId = 0;
  #lastPeerId = 0;
  #answering = 0;

  constructor(stream: ControlStream, options: ChannelOptions) {
    this.#stream = stream;
    this.#options = options;
    this.#peerSide = options.side === "source" ? "destination" : "source";
    this.#receive();
  }

  get signal(): AbortSignal {
    return this.#ended.signal;
  }

  /**
   * Asks the peer. Throws the peer's refusal (its code, kind, phase, side and text), what ended the
   * channel, or the signal's reason. Cancelling gives up the wait only: the peer goes on with what
   * was asked, and is not told.
   */
  async request<N extends RequestName>(
    name: N,
    body: RequestBody<N>,
    signal: AbortSignal,
  ): Promise<ReplyBody<N>> {
    signal.throwIfAborted();
    if (this.signal.aborted) throw abortReason(this.signal);
    if (this.#waiting.size >= MAX_OPEN_REQUESTS) {
      throw new AgentError(
        "too_many_requests",
        `Cannot ask for '${name}': ${MAX_OPEN_REQUESTS} requests wait for a reply`,
        { kind: "internal", side: this.#options.side },
      );
    }
    const id = ++this.#lastId;
    const unit = encodeMessage({ id, request: name, body });
    const waiter = { name, ...Promise.withResolvers<Message>() };
    this.#waiting.set(id, waiter);
    // A write that fails ends the stream, and with it the wait below.
    this.#stream.write(unit).catch((error) => this.#end(toAgentError(error)));
    const answer = await abortable(waiter.promise, signal);
    if ("error" in answer) throw errorFromBody(answer.error, this.#peerSide);
    return this.#checked(REQUESTS[name].reply, answer) as ReplyBody<N>;
  }

  /** Tells the peer; resolves when the kernel has it. */
  async notify<N extends NotificationName>(name: N, body: NotificationBody<N>): Promise<void> {
    await this.#stream.write(encodeMessage({ notify: name, body }));
  }

  /** Nothing more will be said from here; replies can still come. */
  async closeWrite(): Promise<void> {
    await this.#stream.closeWrite();
  }

  async #receive(): Promise<void> {
    try {
      for (;;) {
        const unit = await readUnit(this.#stream);
        if (unit === null) break;
        this.#dispatch(decodeMessage(unit));
      }
      this.#end(
        new AgentError("control_closed", "The other agent has ended the conversation", {
          kind: "link",
          side: this.#peerSide,
        }),
      );
    } catch (error) {
      const reason = toAgentError(error, { side: this.#options.side });
      this.#end(reason);
      this.#stream.reset(reason.code, reason.message);
    }
  }

  #dispatch(message: Message): void {
    if ("request" in message) {
      if (message.id <= this.#lastPeerId) throw badMessage(`request id ${message.id} used again`);
      this.#lastPeerId = message.id;
      if (this.#answering >= MAX_OPEN_REQUESTS) {
        throw badMessage(`more than ${MAX_OPEN_REQUESTS} requests at once`);
      }
      this.#answering++;
      // A reply that cannot be written means that the stream has failed: that ends the channel.
      this.#answer(message)
        .catch((error) => this.#end(toAgentError(error, { side: this.#options.side })))
        .finally(() => this.#answering--);
    } else if ("notify" in message) {
      this.#options.onNotification(this.#notification(message));
    } else {
      const waiter = this.#waiting.get(message.id);
      if (waiter === undefined) throw badMessage(`an answer to request ${message.id}`);
      if ("reply" in message && message.reply !== waiter.name) {
        throw badMessage(`reply ${quote(message.reply, 64)} to a request '${waiter.name}'`);
      }
      this.#waiting.delete(message.id);
      waiter.resolve(message);
    }
  }

  #notification(message: { notify: string; body?: unknown }): Notification {
    if (!Object.hasOwn(NOTIFICATIONS, message.notify)) {
      throw badMessage(`unknown notification ${quote(message.notify, 64)}`);
    }
    const name = message.notify as NotificationName;
    // The schema is the one of that name, which the compiler cannot follow.
    return { name, body: this.#checked(NOTIFICATIONS[name], message) } as Notification;
  }

  async #answer(message: { id: number; request: string; body?: unknown }): Promise<void> {
    const { id } = message;
    let unit: Uint8Array;
    try {
      const reply = await this.#handle(message);
      unit = encodeMessage({ id, reply: message.request, body: reply });
    } catch (error) {
      const body = errorToBody(toAgentError(error), this.#options.side);
      unit = encodeMessage({ id, error: body });
    }
    if (!this.signal.aborted) await this.#stream.write(unit);
  }

  #handle(message: { request: string; body?: unknown }): Promise<unknown> {
    const name = message.request as RequestName;
    const handler = Object.hasOwn(REQUESTS, name) ? this.#options.handlers?.[name] : undefined;
    if (handler === undefined) {
      throw new AgentError("unknown_request", `Cannot answer ${quote(name, 64)}: not known here`, {
        kind: "refused",
      });
    }
    const body = this.#checked(REQUESTS[name].body, message);
    // Handler and schema belong to the same name, which the compiler cannot follow.
    return (handler as (body: unknown, signal: AbortSignal) => Promise<unknown>)(body, this.signal);
  }

  #checked(schema: v.GenericSchema, message: { body?: unknown }): unknown {
    const result = v.safeParse(schema, message.body, { abortEarly: true });
    if (result.success) return result.output;
    const where = v.getDotPath(result.issues[0]) ?? "the body";
    throw badMessage(`${quote(where, 100)}: ${quote(result.issues[0].message, 200)}`);
  }

  #end(error: AgentError): void {
    if (this.signal.aborted) return;
    this.#ended.abort(error);
    for (const waiter of this.#waiting.values()) waiter.reject(error);
    this.#waiting.clear();
  }
}
