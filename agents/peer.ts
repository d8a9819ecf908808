// One connection to the other agent: a session with its control channel. What the other agent says
// unasked becomes the end of a migration or a warning. A migration may see several of these
// (line.ts).

import { AgentError, type Side } from "../src/base/errors.ts";
import { ControlChannel, type Handlers, type Notification } from "../src/control/channel.ts";
import { errorFromBody, errorToBody } from "../src/control/error_body.ts";
import type { Migration } from "../src/migration/migration.ts";
import type { ByteLink } from "../src/wire/byte_link.ts";
import { Session } from "../src/wire/session.ts";

/** How long the last words to a peer may take when this side has failed. */
const LAST_WORDS_MS = 2000;
/** What a peer may say unasked: each goes into the log, which must not be filled by it. */
const MAX_NOTIFICATIONS = 100;
/** Pings within the time after which a silent peer is given up. */
const PINGS_BEFORE_SILENT = 4;

export class Peer {
  readonly session: Session;
  readonly channel: ControlChannel;
  /** Aborts with the reason when this connection is of no more use. */
  readonly lost: AbortSignal;
  /** How long the other agent may say nothing before it counts as lost. */
  readonly peerTimeoutMs: number;
  readonly #side: Side;
  #migration: Migration | undefined;
  readonly #excess = new AbortController();
  #heard = 0;

  private constructor(session: Session, options: {
    stream: ReturnType<Session["openStream"]>;
    side: Side;
    handlers?: Handlers;
    peerTimeoutMs: number;
  }) {
    const { stream, side, handlers } = options;
    this.session = session;
    this.peerTimeoutMs = options.peerTimeoutMs;
    this.#side = side;
    this.channel = new ControlChannel(stream, {
      side,
      ...(handlers ? { handlers } : {}),
      onNotification: (notification) => this.#hear(notification),
    });
    this.lost = AbortSignal.any([this.#excess.signal, session.signal, this.channel.signal]);
  }

  /** The sender's end: opens the control stream. */
  static dialled(link: ByteLink, { peerTimeoutMs }: { peerTimeoutMs: number }): Peer {
    const session = new Session(link, { role: "initiator", ...keepalive(peerTimeoutMs) });
    const stream = session.openStream("control");
    return new Peer(session, { stream, side: "source", peerTimeoutMs });
  }

  /** The receiver's end: waits for the control stream. Closes `link` when that fails. */
  static async accepted(
    link: ByteLink,
    options: { handlers: Handlers; peerTimeoutMs: number; signal: AbortSignal },
  ): Promise<Peer> {
    const { handlers, peerTimeoutMs, signal } = options;
    const session = new Session(link, { role: "responder", ...keepalive(peerTimeoutMs) });
    try {
      const stream = await session.acceptStream("control", signal);
      return new Peer(session, { stream, side: "destination", handlers, peerTimeoutMs });
    } catch (error) {
      session.close();
      throw error;
    }
  }

  /** From now on the peer's notifications are about this migration. */
  join(migration: Migration): void {
    this.#migration = migration;
  }

  /**
   * Tells the peer why this side gave up, unless it was the peer who said so or it is gone; then
   * lets the peer leave first: the end of the connection must not be what it hears before the reason.
   */
  async tellFailure(error: AgentError): Promise<void> {
    if (error.side !== this.#side || this.session.signal.aborted) return;
    const told = error.kind === "cancelled"
      ? this.channel.notify("cancel", { reason: error.message })
      : this.channel.notify("failed", errorToBody(error, this.#side));
    // A peer that cannot be told finds out by the end of the connection.
    const enough = Promise.withResolvers<void>();
    const timer = setTimeout(enough.resolve, LAST_WORDS_MS);
    told.catch(enough.resolve);
    await Promise.race([this.session.done, enough.promise]);
    clearTimeout(timer);
  }

  /** Ends the connection in order. */
  async leave(code: "done" | "failed", reason: string): Promise<void> {
    await this.session.goAway(code, reason);
  }

  #hear(notification: Notification): void {
    if (++this.#heard > MAX_NOTIFICATIONS) {
      this.#excess.abort(tooManyNotifications());
      return this.session.close();
    }
    const peerSide: Side = this.#side === "source" ? "destination" : "source";
    switch (notification.name) {
      case "warning":
        return this.#migration?.report({ type: "warning", ...notification.body });
      case "failed":
        return this.#migration?.fail(errorFromBody(notification.body, peerSide));
      case "cancel":
        return this.#migration?.fail(
          new AgentError("cancelled_by_peer", notification.body.reason, {
            kind: "cancelled",
            side: peerSide,
          }),
        );
    }
  }
}

function keepalive(peerTimeoutMs: number) {
  return { peerTimeoutMs, keepaliveIntervalMs: peerTimeoutMs / PINGS_BEFORE_SILENT };
}

function tooManyNotifications(): AgentError {
  return new AgentError(
    "too_many_notifications",
    `The other agent has sent more than ${MAX_NOTIFICATIONS} notifications`,
    { kind: "link" },
  );
}
