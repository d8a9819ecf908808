// `resolve`: takes over the journal of an agent that was killed and puts this host in order. It can be
// killed and run again at any moment.

import { type Side, toAgentError } from "../src/base/errors.ts";
import { identifyProcess } from "../src/base/process_identity.ts";
import type { ResolvedLine } from "../src/cli/journal_documents.ts";
import type { ResolveOptions } from "../src/cli/resolve_command.ts";
import { hasLivingAgent } from "../src/migration/claims.ts";
import type { JournalRecord } from "../src/migration/journal_record.ts";
import type { Answer } from "../src/migration/ownership.ts";
import { StateFolder } from "../src/migration/state_folder.ts";
import { factsOf, pickJournal, runStateOf } from "./journals.ts";
import { Resolution } from "./resolution.ts";
import { AGENT_VERSION } from "./version.ts";

/**
 * Asks the receiver of that migration, once, what became of the guest; null when it cannot be reached
 * or does not know the migration.
 */
export type AskReceiver = (record: JournalRecord, signal: AbortSignal) => Promise<Answer | null>;

/**
 * Resolves one side of one migration, and says what was done.
 * @throws AgentError kind refused (agent alive, no such journal, what contradicts the journals), kind
 *   uncertain when an operator has to decide, or what could not be done
 */
export async function resolve(
  options: ResolveOptions,
  { ask, signal }: { ask: AskReceiver; signal: AbortSignal },
): Promise<ResolvedLine> {
  const folder = await StateFolder.open(options.stateDir);
  const { side } = await pickJournal(folder, options);
  return await resolveJournal(folder, { id: options.id, side, keep: options.keep, ask, signal });
}

/**
 * What the same command does first when it is run again: resolves what dead agents have left of
 * migrations that claim one of `claims` (null: of any), unless that is an operator's to decide.
 */
export async function resolveAbandoned(
  folder: StateFolder,
  options: { side: Side; claims: readonly string[] | null; signal: AbortSignal },
): Promise<ResolvedLine[]> {
  const { side, claims, signal } = options;
  const resolved: ResolvedLine[] = [];
  for (const entry of await folder.list()) {
    if (!("record" in entry) || entry.record.side !== side) continue;
    const { state, migration_id: id, claims: theirs } = entry.record;
    const unsettled = state === "owning" || state === "preparing";
    if (!unsettled || claims && !theirs.some((claim) => claims.includes(claim))) continue;
    if (await hasLivingAgent(entry.record)) continue;
    resolved.push(
      await resolveJournal(folder, {
        id,
        side,
        keep: null,
        ask: () => Promise.resolve(null),
        signal,
      }),
    );
  }
  return resolved;
}

/** `resolve` for one journal. */
export async function resolveJournal(
  folder: StateFolder,
  options: { id: string; side: Side; keep: Side | null; ask: AskReceiver; signal: AbortSignal },
): Promise<ResolvedLine> {
  const { id, side, keep, signal } = options;
  const agent = await identifyProcess(Deno.pid);
  const journal = await folder.takeOver(id, { side, agent, agentVersion: AGENT_VERSION });
  const before = journal.record.state;
  const resolution = new Resolution(journal, {
    ask: async (record) => await askHere(folder, id) ?? await options.ask(record, signal),
    signal,
  });
  let kept: boolean;
  try {
    await resolution.decide(keep);
    kept = await resolution.tidy();
  } catch (error) {
    const failure = toAgentError(error, { side });
    try {
      await journal.leave();
    } catch (leaveError) {
      failure.undoErrors.push(toAgentError(leaveError));
    }
    throw failure;
  }
  const { guest, state } = journal.record;
  return {
    type: "resolved",
    time: new Date().toISOString(),
    migration_id: id,
    side,
    guest,
    state_before: before,
    state,
    meaning: factsOf(journal.record).meaning,
    run_state: await runStateOf(journal.record, signal),
    done: resolution.done,
    journal: kept ? journal.path : null,
  };
}

/** The answer that the destination's journal gives, where one host was both sides. */
async function askHere(folder: StateFolder, id: string): Promise<Answer | null> {
  for (const entry of await folder.find(id)) {
    if (!("record" in entry) || entry.record.side !== "destination") continue;
    const { state } = entry.record;
    if (state === "running" || state === "never_ran" || state === "ended") return state;
  }
  return null;
}
