// What this host's journals say of migrations whose agent is dead, to a sender that asks and to a
// receiver that starts.

import { AgentError, toAgentError } from "../src/base/errors.ts";
import { hasLivingAgent } from "../src/migration/claims.ts";
import type { JournalRecord } from "../src/migration/journal_record.ts";
import type { Answer } from "../src/migration/ownership.ts";
import type { StateFolder } from "../src/migration/state_folder.ts";
import { readReach } from "./connect.ts";
import { askForOutcome, type Outcome } from "./outcome.ts";
import { resolveAbandoned, resolveJournal } from "./resolve.ts";

/** What an ended migration has left to be asked is kept for a week. */
const TOMBSTONES_FOR_MS = 7 * 24 * 3_600_000;
/** How long `resolve` tries to reach the receiver. */
const ASK_MS = 5000;

/**
 * What became of a guest that was handed over to an agent of this host that is dead: its journal is
 * resolved for that, as the operator's command would. `uncertain` when nothing is known.
 */
export async function recallOutcome(
  state: StateFolder,
  migrationId: string,
  signal: AbortSignal,
): Promise<Outcome> {
  const found = (await state.find(migrationId)).find((entry) =>
    "record" in entry && entry.record.side === "destination"
  );
  if (!found || !("record" in found) || await hasLivingAgent(found.record)) return "uncertain";
  try {
    const { state: now } = await resolveJournal(state, {
      id: migrationId,
      side: "destination",
      keep: null,
      ask: () => Promise.resolve(null),
      signal,
    });
    return now === "running" || now === "never_ran" || now === "ended" ? now : "uncertain";
  } catch (error) {
    if (error instanceof AgentError && error.kind === "uncertain") return "uncertain";
    throw error;
  }
}

/**
 * Puts in order what killed receivers of this host have left of migrations that never got to the
 * handover. What was done, or could not be, in sentences.
 */
export async function resolveLeftBehind(
  state: StateFolder,
  signal: AbortSignal,
): Promise<string[]> {
  try {
    await state.prune(TOMBSTONES_FOR_MS);
    const resolved = await resolveAbandoned(state, { side: "destination", claims: null, signal });
    return resolved.map(({ migration_id, guest, done }) =>
      `Resolved migration ${migration_id} of '${guest}', whose agent was killed: ${
        done.join("; ") || "nothing was left of it"
      }`
    );
  } catch (error) {
    signal.throwIfAborted();
    return [toAgentError(error).message];
  }
}

/** Asks the receiver that a journal of the source names, once; null when it does not answer. */
export async function askReceiver(
  record: JournalRecord,
  signal: AbortSignal,
): Promise<Answer | null> {
  const reach = readReach(record.reach);
  if (reach === null) return null;
  try {
    const answer = await askForOutcome({
      reach,
      migrationId: record.migration_id,
      peerTimeoutMs: ASK_MS,
      withinMs: ASK_MS,
      signal,
    });
    // Without a goodbye: what is said here is not in the journal yet.
    answer?.peer.session.close();
    return answer && answer.outcome;
  } catch (error) {
    signal.throwIfAborted();
    // It was reached and does not know us any more: no answer either.
    if (error instanceof AgentError) return null;
    throw error;
  }
}
