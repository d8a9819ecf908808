// The other agent, as both stories see it: one session with its control channel, and what it says
// unasked turned into the end of this migration or a warning.

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

export class Peer {
  readonly session: Session;
  readonly channel: ControlChannel;
  readonly #side: Side;
  #heard = 0;

  private constructor(session: Session, options: {
    stream: ReturnType<Session["openStream"]>;
    migration: Migration;
    handlers?: Handlers;
  }) {
    const { stream, migration, handlers } = options;
    this.session = session;
    this.#side = migration.side;
    this.channel = new ControlChannel(stream, {
      side: migration.side,
      ...(handlers ? { handlers } : {}),
      onNotification: (notification) => {
        if (++this.#heard <= MAX_NOTIFICATIONS) this.#hear(notification, migration);
        else migration.fail(tooManyNotifications());
      },
    });
  }

  /** The sender's end: opens the control stream. */
  static dialled(link: ByteLink, migration: Migration): Peer {
    const session = new Session(link, { role: "initiator" });
    return new Peer(session, { stream: session.openStream("control"), migration });
  }

  /** The receiver's end: waits for the control stream. Closes `link` when that fails. */
  static async accepted(
    link: ByteLink,
    options: { migration: Migration; handlers: Handlers; signal: AbortSignal },
  ): Promise<Peer> {
    const session = new Session(link, { role: "responder" });
    try {
      const stream = await session.acceptStream("control", options.signal);
      return new Peer(session, { stream, ...options });
    } catch (error) {
      session.close();
      throw error;
    }
  }

  /** The end of the session, or of its control channel, ends the migration. */
  guard(migration: Migration): void {
    migration.failWith(this.session.signal);
    migration.failWith(this.channel.signal);
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

  #hear(notification: Notification, migration: Migration): void {
    const peerSide: Side = this.#side === "source" ? "destination" : "source";
    switch (notification.name) {
      case "warning":
        return migration.report({ type: "warning", ...notification.body });
      case "failed":
        return migration.fail(errorFromBody(notification.body, peerSide));
      case "cancel":
        return migration.fail(
          new AgentError("cancelled_by_peer", notification.body.reason, {
            kind: "cancelled",
            side: peerSide,
          }),
        );
    }
  }
}

function tooManyNotifications(): AgentError {
  return new AgentError(
    "too_many_notifications",
    `The other agent has sent more than ${MAX_NOTIFICATIONS} notifications`,
    { kind: "link" },
  );
}
