// One connection at the receiver, from its first request on: a new migration, one that goes on after
// its connection was lost, or a question about one that was handed over. What a migration is, is in
// receiver.ts.

import { abortable, Deadline } from "../src/base/deadline.ts";
import { AgentError } from "../src/base/errors.ts";
import type { Handlers } from "../src/control/channel.ts";
import type { ReplyBody } from "../src/control/messages.ts";
import type { AccountEvent } from "../src/migration/events.ts";
import type { Migration } from "../src/migration/migration.ts";
import type { Admitted } from "./door.ts";
import type { Outcome } from "./outcome.ts";
import { Peer } from "./peer.ts";
import { receive, type Receiver } from "./receiver.ts";
import type { ReceiverOptions } from "./receiver_options.ts";

/** A connection that asks for nothing is closed. */
const FIRST_REQUEST_MS = 60_000;

export interface ReceptionOptions extends Omit<ReceiverOptions, "sender"> {
  peerTimeoutMs: number;
  makeMigration: () => Migration;
  /** The migrations that this process works on, by id. */
  living: Map<string, Receiver>;
  /** What is known of a migration that this process does not work on. */
  recall: (migrationId: string, signal: AbortSignal) => Promise<Outcome>;
}

/** A migration that has ended here. */
export interface Ended {
  migrationId: string;
  account: AccountEvent;
}

/** Serves one connection to its end; the migration that began on it, when that has ended, if one did. */
export async function serveConnection(
  sender: Admitted,
  options: ReceptionOptions,
  signal: AbortSignal,
): Promise<Ended | null> {
  const reception = new Reception(sender, options);
  using limit = new Deadline(
    FIRST_REQUEST_MS,
    () => new AgentError("asks_nothing", "The peer has asked for nothing", { kind: "link" }),
    signal,
  );
  const { handlers } = reception;
  const { peerTimeoutMs } = options;
  const peer = await Peer.accepted(sender.link, { handlers, peerTimeoutMs, signal: limit.signal });
  reception.peer.resolve(peer);
  try {
    await abortable(reception.first.promise, AbortSignal.any([limit.signal, peer.lost]));
  } catch (error) {
    peer.session.close();
    throw error;
  }
  const ended = await reception.end(signal);
  const leave = () => void peer.leave("done", "this receiver ends");
  if (signal.aborted) leave();
  else signal.addEventListener("abort", leave, { once: true });
  await peer.session.done;
  await reception.close(peer.session.signal.reason);
  return ended;
}

class Reception {
  readonly peer = Promise.withResolvers<Peer>();
  /** Settles with the first request that made sense. */
  readonly first = Promise.withResolvers<void>();
  readonly #sender: Admitted;
  readonly #options: ReceptionOptions;
  /** The migration that this connection is about. */
  #receiver: Receiver | undefined;
  #asked: Receiver | undefined;
  /** Nobody can find or ask the migration that began here any more. */
  #forget: () => void = () => {};
  /** The same, when it began here. */
  #begun: { receiver: Receiver; migration: Migration; ended: Promise<AccountEvent> } | undefined;

  constructor(sender: Admitted, options: ReceptionOptions) {
    this.#sender = sender;
    this.#options = options;
  }

  readonly handlers: Handlers = {
    hello: async (body) => {
      const peer = await this.peer.promise;
      const receiver = this.#begin(peer);
      this.first.resolve();
      return await receiver.requests.handlers.hello(body);
    },
    resume: async ({ migration_id: id }): Promise<ReplyBody<"resume">> => {
      const receiver = this.#find(id);
      if (!receiver || this.#receiver) throw noSuchMigration(id);
      this.#receiver = receiver;
      const qemu = await receiver.resume(await this.peer.promise);
      this.first.resolve();
      return qemu;
    },
    ask: async ({ migration_id: id }, signal): Promise<ReplyBody<"ask">> => {
      this.first.resolve();
      this.#asked = this.#find(id);
      return { state: await (this.#asked?.ask() ?? this.#options.recall(id, signal)) };
    },
    plan: (body) => this.#story("plan").plan(body),
    prepare: (body) => this.#story("prepare").prepare(body),
    incoming: (body) => this.#story("incoming").incoming(body),
    arrived: (body) => this.#story("arrived").arrived(body),
    handover: (body) => this.#story("handover").handover(body),
    finish: (body) => this.#story("finish").finish(body),
  };

  /** The connection has ended: a sender that asked and then said goodbye has heard the answer. */
  async close(reason: unknown): Promise<void> {
    if (reason instanceof AgentError && reason.code === "peer_went_away") await this.#asked?.hear();
  }

  /** Waits for the end of the migration that began here, and for as long as it may be asked about. */
  async end(signal: AbortSignal): Promise<Ended | null> {
    if (!this.#begun) return null;
    const { receiver, migration, ended } = this.#begun;
    const account = await ended;
    if (migration.id === null) return null;
    migration.report(account);
    if (receiver.mayBeAsked) await receiver.inquiry.waitUntilHeard(signal);
    this.#forget();
    return { migrationId: migration.id, account };
  }

  #begin(peer: Peer): Receiver {
    if (this.#receiver) throw outOfOrder("hello");
    const migration = this.#options.makeMigration();
    const sender = this.#sender;
    const { living } = this.#options;
    const claim = () => {
      const id = this.#options.claim();
      living.set(id, receiver);
      const shutOut = sender.rememberFor(id);
      this.#forget = () => {
        living.delete(id);
        shutOut();
      };
      return id;
    };
    const options = { ...this.#options, sender, claim };
    const { receiver, account: ended } = receive(peer, options, migration);
    this.#begun = { receiver, migration, ended };
    return this.#receiver = receiver;
  }

  #find(id: string): Receiver | undefined {
    const { migrationId } = this.#sender;
    if (migrationId !== "" && migrationId !== id) throw noSuchMigration(id);
    return this.#options.living.get(id);
  }

  #story(name: string): Receiver["requests"]["handlers"] {
    if (this.#receiver) return this.#receiver.requests.handlers;
    const error = outOfOrder(name);
    this.first.reject(error); // whoever begins like that is nobody to wait for
    throw error;
  }
}

function outOfOrder(name: string): AgentError {
  return new AgentError("request_out_of_order", `The sender asked for '${name}' at a wrong time`, {
    side: "destination",
  });
}

function noSuchMigration(id: string): AgentError {
  return new AgentError("no_such_migration", `No migration '${id}' waits here to go on`, {
    kind: "refused",
    side: "destination",
  });
}
