// What became of a guest that was handed over, when the answer was lost: the sender asks again, on new
// connections, for as long as it was told to.
// Specification: docs/protocol.md, "ask"; docs/safety.md.

import { Deadline, delay } from "../src/base/deadline.ts";
import { AgentError } from "../src/base/errors.ts";
import type { ReplyBody } from "../src/control/messages.ts";
import { connectAgain, type Reach } from "./connect.ts";
import { Peer } from "./peer.ts";

/** What the receiver knows. `uncertain`: it knows no such migration, or is not sure itself. */
export type Outcome = ReplyBody<"ask">["state"];

/** Between a failed try and the next. */
const PAUSE_MS = 500;

export interface SearchOptions {
  reach: Reach;
  migrationId: string;
  peerTimeoutMs: number;
  signal: AbortSignal;
}

/**
 * Tries until somebody answers or `withinMs` have passed; null when nobody did. `peer` is the
 * connection on which the answer came: the goodbye on it tells the receiver that nobody will ask
 * again, so it must not come before the answer is in this side's journal.
 * @throws the signal's reason
 */
export async function askForOutcome(
  options: SearchOptions & { withinMs: number },
): Promise<{ outcome: Outcome; peer: Peer } | null> {
  const { migrationId, withinMs, signal } = options;
  using limit = new Deadline(
    withinMs,
    () => new AgentError("nobody_answers", "The receiver was not reached in time"),
    signal,
  );
  try {
    for (;;) {
      const search = { ...options, signal: limit.signal };
      const { outcome, peer } = await findReceiver(search, async (peer) => {
        const body = { migration_id: migrationId };
        const { state } = await peer.channel.request("ask", body, limit.signal);
        return { outcome: state, peer };
      });
      if (outcome !== "uncertain") return { outcome, peer };
      peer.session.close();
      await delay(PAUSE_MS, limit.signal); // it may learn more
    }
  } catch (error) {
    signal.throwIfAborted();
    if (limit.signal.aborted) return null;
    throw error;
  }
}

/**
 * Dials until `use` succeeds with a connection, or the signal aborts. What the receiver refuses is
 * thrown: asking again would not change it.
 */
async function findReceiver<T>(
  { reach, peerTimeoutMs, signal }: SearchOptions,
  use: (peer: Peer) => Promise<T>,
): Promise<T> {
  for (;;) {
    try {
      const link = await connectAgain(reach, { signal, timeoutMs: peerTimeoutMs });
      const peer = Peer.dialled(link, { peerTimeoutMs });
      try {
        return await use(peer);
      } catch (error) {
        peer.session.close();
        throw error;
      }
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof AgentError) || error.kind !== "link") throw error;
      await delay(PAUSE_MS, signal); // a host that refuses connections does so at once
    }
  }
}

/**
 * Dials until the receiver goes on with this migration on the new connection; also gives the QEMU that
 * waits there now.
 */
export function resumeMigration(
  options: SearchOptions,
): Promise<{ peer: Peer; qemu: ReplyBody<"resume"> }> {
  const { migrationId, signal } = options;
  return findReceiver(options, async (peer) => {
    const qemu = await peer.channel.request("resume", { migration_id: migrationId }, signal);
    return { peer, qemu };
  });
}
