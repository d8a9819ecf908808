// `cancel` and `set`: what is asked of the agent that works on a migration of this host, through its
// local socket.

import { AgentError } from "../src/base/errors.ts";
import type { CancelOptions, SetOptions } from "../src/cli/adjust_commands.ts";
import { askAgent } from "../src/control/local_client.ts";
import type { LocalRequest } from "../src/control/local_messages.ts";
import { hasLivingAgent } from "../src/migration/claims.ts";
import type { JournalRecord } from "../src/migration/journal_record.ts";
import { StateFolder } from "../src/migration/state_folder.ts";
import { factsOf, pickJournal } from "./journals.ts";

/**
 * Asks an agent of this host to end the migration and undo it; what to tell the operator.
 * @throws AgentError kind refused when no agent works on it, or the agent's own refusal
 */
export async function cancel(
  { id, stateDir }: CancelOptions,
  signal: AbortSignal,
): Promise<string> {
  const record = await findAtWork(stateDir, id);
  const reason = "Cancelled by 'migrate-agent cancel'";
  await ask(record, { request: { command: "cancel", reason }, signal });
  return `Migration ${id}: process ${record.agent!.pid} (${record.side}) ends it and undoes it; ` +
    `its account says how that went.\n`;
}

/** Gives the sender of this host new limits; what to tell the operator. @throws as `cancel` does */
export async function set(
  { id, stateDir, diskBandwidth, ramBandwidth, downtimeLimitMs }: SetOptions,
  signal: AbortSignal,
): Promise<string> {
  const record = await findAtWork(stateDir, id);
  if (record.side !== "source") {
    throw new AgentError("not_the_sender", `Migration ${id} has its limits at the sender`, {
      kind: "refused",
      side: "destination",
      hint: "run the same command on the source host",
    });
  }
  const request = {
    command: "set" as const,
    disk_bandwidth: diskBandwidth,
    ram_bandwidth: ramBandwidth,
    downtime_limit_ms: downtimeLimitMs,
  };
  await ask(record, { request, signal });
  return `Migration ${id}: process ${record.agent!.pid} has the new limits.\n`;
}

/** The journal of an agent that is at work; the source's where one host is both. */
async function findAtWork(stateDir: string, id: string): Promise<JournalRecord> {
  const folder = await StateFolder.open(stateDir);
  const records = (await folder.find(id)).flatMap((e) => "record" in e ? [e.record] : []);
  for (const record of records.toSorted((a, b) => b.side.localeCompare(a.side))) {
    if (await hasLivingAgent(record)) return record;
  }
  const { side, state } = records[0] ?? await pickJournal(folder, { id, side: null });
  throw factsOf({ side, state }).settled
    ? new AgentError("migration_ended", `Migration ${id} has ended (${side}, state ${state})`, {
      kind: "refused",
      side,
    })
    : new AgentError(
      "no_agent",
      `No agent works on migration ${id} any more (${side}, state ${state})`,
      { kind: "refused", side, hint: `put this host in order: migrate-agent resolve ${id}` },
    );
}

async function ask(
  { migration_id: id, control, side, agent }: JournalRecord,
  { request, signal }: { request: LocalRequest; signal: AbortSignal },
): Promise<void> {
  if (control === null) {
    throw new AgentError(
      "agent_not_ready",
      `Process ${agent!.pid}, which works on migration ${id}, cannot be asked yet`,
      { kind: "refused", side, hint: "try again in a moment" },
    );
  }
  await askAgent(control, { request, side, signal });
}
