// A session: many streams on one connection. It opens and accepts streams, checks what the peer may
// send when, notices a peer that is gone, and ends the connection in an orderly way. What the streams
// carry is not its business.
// Specification: docs/protocol.md, sections 1 to 5.

import { abortReason } from "../base/deadline.ts";
import { AgentError, quotePeer } from "../base/errors.ts";
import { AsyncQueue } from "../base/queue.ts";
import { type ByteLink, FrameReader, type PayloadSink } from "./byte_link.ts";
import {
  decodeFrame,
  encodeFrame,
  encodePreface,
  type FrameHeader,
  HEADER_BYTES,
  protocolError,
  type ShortFrame,
} from "./frame.ts";
import { Keepalive, SYSTEM_TIMERS, type Timers } from "./keepalive.ts";
import { Outbox } from "./outbox.ts";
import { type StreamHost, WireStream } from "./stream.ts";

/** What streams can be for. */
export const STREAM_KINDS = ["control", "params", "ram", "nbd"] as const;
export type StreamKind = typeof STREAM_KINDS[number];

export const MAX_STREAMS = 256;
export const MAX_PENDING_PER_KIND = 16;
/** Answers that the peer may leave unread before it is taken to do so on purpose. */
const MAX_BACKLOG = 1024;
const DISCARD_BYTES = 64 * 1024;

export interface SessionOptions {
  /** Who dialled is the initiator. */
  role: "initiator" | "responder";
  /** A ping goes out when nothing was sent or received for so long. */
  keepaliveIntervalMs?: number;
  /** The session fails (`peer_silent`) when nothing was received for so long. */
  peerTimeoutMs?: number;
  /** How long the last bytes may take when this side ends the session. */
  lingerMs?: number;
  /** Unread bytes that this side keeps per stream: at least 256 KiB, what all streams begin with. */
  windowBytes?: number;
  timers?: Timers;
}

/**
 * Takes over `link` and speaks at once. `signal` aborts when the session ends, whoever ended it, with
 * an AgentError of kind "link" as the reason; from then on every wait of every stream fails with it
 * (received bytes are still given first). It never waits for a blocked write to notice that.
 */
export class Session {
  readonly #link: ByteLink;
  readonly #initiator: boolean;
  readonly #windowBytes: number;
  readonly #lingerMs: number;
  readonly #timers: Timers;
  readonly #outbox: Outbox;
  readonly #keepalive: Keepalive;
  readonly #reader: FrameReader;
  readonly #streams = new Map<number, WireStream>();
  readonly #pending = new Map<string, AsyncQueue<WireStream>>();
  readonly #ended = new AbortController();
  readonly #scratch = new Scratch();
  #nextId: number;
  #lastPeerId = 0;
  #leaving = false;
  #linkClosed = false;
  #lingerTimer: number | undefined;
  #peerGoAway: { code: string; reason: string } | null = null;
  /** Resolves, never rejects, when the connection is closed. */
  readonly done: Promise<void>;

  constructor(link: ByteLink, options: SessionOptions) {
    this.#link = link;
    this.#initiator = options.role === "initiator";
    this.#nextId = this.#initiator ? 1 : 2;
    this.#windowBytes = options.windowBytes ?? 4 * 1024 * 1024;
    this.#lingerMs = options.lingerMs ?? 2000;
    this.#timers = options.timers ?? SYSTEM_TIMERS;
    for (const kind of STREAM_KINDS) this.#pending.set(kind, new AsyncQueue());
    const peerTimeoutMs = options.peerTimeoutMs ?? 5000;
    this.#keepalive = new Keepalive({
      intervalMs: options.keepaliveIntervalMs ?? 1000,
      timeoutMs: peerTimeoutMs,
      timers: this.#timers,
      onIdle: () => this.#ping(),
      onSilent: () => this.#end(peerSilent(peerTimeoutMs)),
    });
    this.#outbox = new Outbox(link, {
      onSent: () => this.#keepalive.sent(),
      onError: (error) => this.#end(error),
    });
    this.#reader = new FrameReader(link, () => this.#keepalive.received());
    this.#outbox.post(encodePreface());
    this.done = this.#receive();
  }

  /** Aborts when the session ends. */
  get signal(): AbortSignal {
    return this.#ended.signal;
  }

  /** What the peer said when it ended the session; code `done` is the normal end. */
  get peerGoAway(): { readonly code: string; readonly reason: string } | null {
    return this.#peerGoAway;
  }

  /** Opens a stream; the peer finds it by its kind. */
  openStream(kind: StreamKind): WireStream {
    if (this.signal.aborted) throw abortReason(this.signal);
    if (this.#streams.size >= MAX_STREAMS) {
      throw new AgentError(
        "too_many_streams",
        `Cannot open a stream '${kind}': ${MAX_STREAMS} are open`,
        { kind: "internal" },
      );
    }
    const id = this.#nextId;
    this.#nextId += 2;
    this.#post({ type: "open", stream: id, kind });
    const stream = this.#addStream(id, kind);
    stream.open();
    return stream;
  }

  /** The next stream of that kind that the peer opens. Safe to cancel: no stream is lost by it. */
  async acceptStream(kind: StreamKind, signal: AbortSignal): Promise<WireStream> {
    const stream = await this.#pending.get(kind)!.take(signal);
    if (stream === null) throw abortReason(this.signal);
    stream.open();
    return stream;
  }

  /**
   * Ends the session in order: every write that has resolved still arrives, then the code (`done`
   * when all is well) and the reason. Resolves, never rejects, when the connection is closed, which
   * takes `lingerMs` at most; writes that have not resolved by then fail.
   */
  goAway(code: string, reason: string): Promise<void> {
    if (this.signal.aborted || this.#leaving) return this.done;
    this.#leaving = true;
    const error = closedHere(reason);
    const last = encodeFrame({ type: "go_away", code, reason });
    this.#linger(error);
    this.#outbox.seal(error, last).then(() => {
      this.#halfClose();
      this.#finish(error);
    }, () => {/* the session ended by itself meanwhile, and has told why */});
    return this.done;
  }

  /** Ends the session at once, without a word to the peer. */
  close(): void {
    this.#end(closedHere("it was closed"));
    this.#closeLink();
  }

  /** Reads until the session ends, then until the peer's end, and closes the connection. */
  async #receive(): Promise<void> {
    try {
      await this.#reader.readPreface();
      while (!this.signal.aborted) await this.#receiveFrame();
    } catch (error) {
      const reason = error instanceof AgentError ? error : internalError(error);
      const speaks = reason.code === "protocol_error" || reason.code === "internal_error";
      this.#end(reason, speaks ? reason.code : undefined);
    }
    // Closing while the peer's bytes lie unread would reset the connection, and our go-away with it.
    const waste = new Uint8Array(DISCARD_BYTES);
    try {
      while (!this.#linkClosed && (await this.#link.read(waste)) !== null);
    } catch {
      // The connection is gone or was closed: what it was for has ended before.
    }
    this.#closeLink();
  }

  async #receiveFrame(): Promise<void> {
    const header = await this.#reader.readHeader();
    const stream = this.#streams.get(header.stream);
    if (header.stream !== 0 && stream === undefined) this.#checkStrangeFrame(header);
    if (header.type === "data") {
      // Data for a stream that is no more is read and dropped.
      const sink = stream?.beginData(header.length) ?? this.#scratch.begin();
      await this.#reader.readPayload(header.length, sink);
      stream?.finishData();
      return;
    }
    const sink = this.#scratch.begin();
    if (header.length > 0) await this.#reader.readPayload(header.length, sink);
    this.#handle(decodeFrame(header, sink.bytes), stream);
    if (this.#outbox.backlog > MAX_BACKLOG) throw protocolError("it reads no answers");
  }

  #handle(frame: ShortFrame, stream: WireStream | undefined): void {
    switch (frame.type) {
      case "open":
        return this.#acceptOpen(frame.stream, frame.kind);
      case "credit":
        return stream?.addCredit(frame.bytes);
      case "end":
        return stream?.peerEnd();
      case "reset":
        return stream?.peerReset(frame.code, frame.text);
      case "ping":
        return this.#post({ type: "pong", opaque: frame.opaque });
      case "pong":
        return; // that it came is all that it says
      case "go_away":
        this.#peerGoAway = { code: frame.code, reason: frame.reason };
        this.#end(peerWentAway(frame.code, frame.reason));
        return this.#closeLink();
    }
  }

  /** A frame for a stream that is not open: allowed for `open` and for what comes late. */
  #checkStrangeFrame(header: FrameHeader): void {
    const { type, stream } = header;
    if (type === "open") return;
    const ours = (stream % 2 === 1) === this.#initiator;
    const used = ours ? stream < this.#nextId : stream <= this.#lastPeerId;
    if (!used) throw protocolError(`a ${type} frame on stream ${stream}, which was never opened`);
  }

  #acceptOpen(id: number, kind: string): void {
    if ((id % 2 === 1) === this.#initiator || id <= this.#lastPeerId) {
      throw protocolError(`stream ${id} opened after stream ${this.#lastPeerId}`);
    }
    this.#lastPeerId = id;
    const queue = this.#pending.get(kind);
    const refuse = (code: string, text: string) =>
      this.#post({ type: "reset", stream: id, code, text });
    if (queue === undefined) return refuse("unknown_kind", `streams of kind '${kind}' are unknown`);
    if (this.#streams.size >= MAX_STREAMS) {
      return refuse("too_many_streams", `${MAX_STREAMS} streams are open`);
    }
    if (queue.size >= MAX_PENDING_PER_KIND) {
      return refuse("too_many_pending", `${queue.size} streams of kind '${kind}' wait already`);
    }
    queue.push(this.#addStream(id, kind));
  }

  #addStream(id: number, kind: string): WireStream {
    const urgent = kind === "control";
    const host: StreamHost = {
      send: (frame) => this.#outbox.send(frame, urgent),
      post: (frame) => this.#post(frame),
      forget: (stream) => void this.#streams.delete(stream.id),
    };
    const stream = new WireStream(id, kind, { host, windowBytes: this.#windowBytes });
    this.#streams.set(id, stream);
    return stream;
  }

  #ping(): void {
    // A ping that still waits says the same as another one would.
    if (this.#outbox.backlog === 0) this.#post({ type: "ping", opaque: new Uint8Array(8) });
  }

  #post(frame: ShortFrame): void {
    this.#outbox.post(encodeFrame(frame));
  }

  /** Ends the session because of `error`; with a code, the peer is told before the link closes. */
  #end(error: AgentError, code?: string): void {
    if (this.signal.aborted) return;
    if (code === undefined || this.#leaving) {
      this.#outbox.fail(error);
      this.#finish(error);
      this.#closeLink();
      return;
    }
    this.#linger(error);
    const last = encodeFrame({ type: "go_away", code, reason: error.message });
    this.#outbox.fail(error, last).then(
      () => this.#halfClose(),
      () => {/* the peer could not be told */},
    );
    this.#finish(error);
  }

  /** Lets everybody know that the session is over; the link may stay open for the last bytes. */
  #finish(error: AgentError): void {
    if (this.signal.aborted) return;
    this.#keepalive.stop();
    const streams = [...this.#streams.values()];
    this.#streams.clear();
    for (const stream of streams) stream.abandon(error);
    for (const queue of this.#pending.values()) queue.fail(error);
    this.#ended.abort(error);
  }

  #linger(error: AgentError): void {
    this.#lingerTimer = this.#timers.setTimeout(() => {
      this.#outbox.fail(error);
      this.#finish(error);
      this.#closeLink();
    }, this.#lingerMs);
  }

  #halfClose(): void {
    this.#link.closeWrite().catch(() => this.#closeLink()); // it is gone: nothing to wait for
  }

  #closeLink(): void {
    if (this.#linkClosed) return;
    this.#linkClosed = true;
    if (this.#lingerTimer !== undefined) this.#timers.clearTimeout(this.#lingerTimer);
    this.#link.close();
  }
}

/** Room for what is looked at and dropped; reused for every frame. */
class Scratch implements PayloadSink {
  readonly #room = new Uint8Array(DISCARD_BYTES);
  #count = 0;

  begin(): this {
    this.#count = 0;
    return this;
  }

  get bytes(): Uint8Array {
    return this.#room.subarray(0, this.#count);
  }

  reserve(want: number): Uint8Array {
    // Short frames fit; of dropped data only the end is kept.
    if (this.#room.length - this.#count <= HEADER_BYTES) this.#count = 0;
    return this.#room.subarray(this.#count, this.#count + want);
  }

  commit(count: number): void {
    this.#count += count;
  }
}

function peerSilent(peerTimeoutMs: number): AgentError {
  return new AgentError(
    "peer_silent",
    `The other agent has been silent for ${peerTimeoutMs / 1000} seconds`,
    { kind: "link", hint: "Check the network between the hosts, and the other agent." },
  );
}

function peerWentAway(code: string, reason: string): AgentError {
  return new AgentError(
    "peer_went_away",
    `The other agent ended the connection (${code}): ${quotePeer(reason)}`,
    { kind: "link" },
  );
}

function closedHere(reason: string): AgentError {
  return new AgentError("session_closed", `The connection was ended here: ${reason}`, {
    kind: "link",
  });
}

function internalError(error: unknown): AgentError {
  return new AgentError("internal_error", `The connection's reader failed: ${String(error)}`, {
    kind: "internal",
    cause: error,
  });
}
