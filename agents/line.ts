// The way to the other agent for as long as a migration lasts: one connection, and with --reconnect
// the next one when that is lost while the disks or the memory are on their way. Who dials again and
// who waits to be found differs by side; this is what both have in common.
// Specification: docs/protocol.md, "resume".

import { abortable, Deadline, delay } from "../src/base/deadline.ts";
import { AgentError, toAgentError } from "../src/base/errors.ts";
import type { ReplyBody, RequestBody, RequestName } from "../src/control/messages.ts";
import type { Migration } from "../src/migration/migration.ts";
import type { PhaseName } from "../src/migration/phases.ts";
import type { Peer } from "./peer.ts";

/** Before them there is nothing worth keeping, after them the guest stands still. */
const PHASES_WITH_RECONNECT: readonly (PhaseName | null)[] = ["mirror", "ram"];

export interface LineOptions {
  migration: Migration;
  /** How long a lost connection may take to be found again; 0: its loss ends the migration. */
  reconnectMs: number;
  /** Called at once when the connection is lost and may be found again. */
  onLost: (reason: AgentError) => void;
  /**
   * Brings the next connection. The sender dials; the receiver waits until it is called. Its signal
   * aborts when the time is up.
   */
  find: (signal: AbortSignal) => Promise<Peer>;
  /**
   * Called when the next connection is there: makes go on what was interrupted. Its signal aborts when
   * that is lost too.
   */
  onFound?: (signal: AbortSignal) => Promise<void>;
}

export class Line {
  readonly #options: LineOptions;
  #peer: Peer;
  /** Settles when there is a connection again; null while there is one. */
  #search: Promise<void> | null = null;
  /** Settles when what was interrupted goes on over the present connection, or cannot. */
  #ready: Promise<void> = Promise.resolve();

  constructor(peer: Peer, options: LineOptions) {
    this.#options = options;
    this.#peer = peer;
    this.#use(peer);
  }

  /** The present connection, or the last one. */
  get peer(): Peer {
    return this.#peer;
  }

  /** Waits until there is a connection. @throws AgentError when it is not found again in time */
  async reached(signal: AbortSignal): Promise<Peer> {
    while (this.#search) await abortable(this.#search, signal);
    return this.#peer;
  }

  /** The same, and until what was interrupted goes on. */
  async connected(signal: AbortSignal): Promise<Peer> {
    do {
      await this.reached(signal);
      await abortable(this.#ready, signal);
    } while (this.#search);
    return this.#peer;
  }

  /** Asks the other agent, as soon as there is a connection. */
  async request<N extends RequestName>(
    name: N,
    body: RequestBody<N>,
    signal: AbortSignal,
  ): Promise<ReplyBody<N>> {
    const { channel } = await this.connected(signal);
    return await channel.request(name, body, signal);
  }

  /** Whether a connection that is lost now could be found again. */
  get mayReconnect(): boolean {
    const { migration, reconnectMs } = this.#options;
    return reconnectMs > 0 && !migration.signal.aborted &&
      PHASES_WITH_RECONNECT.includes(migration.phase);
  }

  /**
   * Gives `peer` up if it is still the present connection: the other agent has left it, or something
   * else was lost with which both have to begin anew.
   */
  leave(peer: Peer): void {
    if (this.#peer === peer) peer.session.close();
  }

  /** `work`, whose failure for the loss of the connection is none. */
  async unlessLost(work: Promise<unknown>): Promise<void> {
    try {
      await work;
    } catch (error) {
      if (!this.recovers(error)) throw error;
    }
  }

  /** Does `work` once more whenever the connection was lost in it and is found again. */
  async retry(work: () => Promise<void>, signal: AbortSignal): Promise<void> {
    for (;;) {
      const peer = this.#peer;
      try {
        return await work();
      } catch (error) {
        if (!this.recovers(error)) throw error;
        this.leave(peer); // QEMU's own connection may be the one that was lost
        await this.connected(signal);
      }
    }
  }

  /**
   * The loss of `peer` that `error` comes from, when it may be found again; else null. Whoever waits for
   * an answer over a dead link may give up before keepalive does: so that gets its time first.
   */
  async lossBehind(
    error: unknown,
    { peer, signal }: { peer: Peer; signal: AbortSignal },
  ): Promise<AgentError | null> {
    const { lost, peerTimeoutMs } = peer;
    const mayBe = lost.aborted || (error instanceof AgentError && error.kind === "link");
    if (!mayBe || !this.mayReconnect) return null;
    await delay(peerTimeoutMs, AbortSignal.any([signal, lost])).catch(() => {}); // looked at below
    const reason = lost.aborted ? toAgentError(lost.reason) : null;
    return reason !== null && this.recovers(reason) ? reason : null;
  }

  /** Whether what failed with `error` may be tried again, because only the connection was lost. */
  recovers(error: unknown): boolean {
    return this.mayReconnect && error instanceof AgentError && isLoss(error);
  }

  #use(peer: Peer): void {
    const { migration } = this.#options;
    peer.join(migration);
    const onLost = () => {
      if (this.#peer === peer) this.#lost(toAgentError(peer.lost.reason));
    };
    if (peer.lost.aborted) onLost();
    else peer.lost.addEventListener("abort", onLost, { once: true });
  }

  #lost(reason: AgentError): void {
    const { migration, onLost } = this.#options;
    if (!this.recovers(reason)) return migration.fail(reason);
    onLost(reason);
    migration.report({ type: "warning", code: "connection_lost", text: reason.message });
    this.#search = this.#find(reason);
    this.#search.catch((error) => migration.fail(error));
  }

  async #find(reason: AgentError): Promise<void> {
    const { migration, reconnectMs, find, onFound } = this.#options;
    using limit = new Deadline(reconnectMs, () => notFound(reason, reconnectMs), migration.signal);
    const peer = await find(limit.signal);
    this.#peer = peer;
    this.#search = null;
    migration.report({
      type: "warning",
      code: "connection_found",
      text: "The other agent was found again; nothing that was copied is copied again",
    });
    this.#use(peer);
    if (onFound && !peer.lost.aborted) this.#ready = this.#goOn(peer, onFound);
  }

  async #goOn(peer: Peer, onFound: NonNullable<LineOptions["onFound"]>): Promise<void> {
    const { migration } = this.#options;
    try {
      await onFound(AbortSignal.any([migration.signal, peer.lost]));
    } catch (error) {
      if (this.recovers(error)) this.leave(peer);
      else migration.fail(error);
    }
  }
}

/** The connection broke; nobody ended it on purpose. */
function isLoss({ code, kind }: AgentError): boolean {
  return kind === "link" && code !== "peer_went_away" && code !== "control_closed";
}

function notFound(cause: AgentError, reconnectMs: number): AgentError {
  return new AgentError(
    "not_found_again",
    `${cause.message}, and was not found again within the ${reconnectMs / 1000} s of --reconnect`,
    { kind: "link", cause },
  );
}
