// `status`: what the journals of this host say, beside what its processes and QEMUs say. Changes
// nothing.

import * as v from "valibot";
import { AgentError } from "../src/base/errors.ts";
import { isSameProcess } from "../src/base/process_identity.ts";
import type { MigrationAccount, StatusLine } from "../src/cli/journal_documents.ts";
import type { StatusOptions } from "../src/cli/status_command.ts";
import { askAgent } from "../src/control/local_client.ts";
import { hasLivingAgent } from "../src/migration/claims.ts";
import type { JournalRecord } from "../src/migration/journal_record.ts";
import { StateFolder } from "../src/migration/state_folder.ts";
import { factsOf, pickJournal, runStateOf } from "./journals.ts";

const CopiedSchema = v.object({
  disk_bytes: v.number(),
  disk_total_bytes: v.number(),
  ram_bytes: v.number(),
});

/**
 * Every migration that has a journal here, or those of one id.
 * @throws AgentError (kind refused) when the folder is not to be trusted, or has no such migration
 */
export async function status(
  { id, stateDir }: StatusOptions,
  signal: AbortSignal,
): Promise<StatusLine> {
  const document: StatusLine = {
    type: "status",
    time: new Date().toISOString(),
    state_dir: stateDir,
    migrations: [],
    damaged: [],
  };
  // A host that never moved a guest has no such folder, and need not get one by being asked.
  if (id === null && !await isThere(stateDir)) return document;
  const folder = await StateFolder.open(stateDir);
  const entries = id === null ? await folder.list() : await folder.find(id);
  if (id !== null && entries.length === 0) await pickJournal(folder, { id, side: null });
  for (const entry of entries) {
    const { path } = entry;
    if ("record" in entry) {
      document.migrations.push(await accountOf(entry.record, { path, signal }));
    } else document.damaged.push({ path, problem: entry.problem });
  }
  return document;
}

async function accountOf(
  record: JournalRecord,
  { path, signal }: { path: string; signal: AbortSignal },
): Promise<MigrationAccount> {
  const { migration_id, side, hypervisor, guest, state, phase, guest_process: qemu } = record;
  const { peer, qmp, started_at, updated_at, note, remains, agent } = record;
  const atWork = await hasLivingAgent(record);
  const { settled, meaning } = factsOf(record);
  return {
    migration_id,
    side,
    hypervisor,
    guest,
    state,
    meaning,
    phase,
    agent_pid: atWork ? agent!.pid : null,
    copied: atWork ? await askCopied(record, signal) : null,
    peer,
    qemu_pid: qemu?.pid ?? null,
    qemu_alive: qemu !== null && await isSameProcess(qemu),
    // A QMP socket serves one client at a time: while an agent is at work it is that agent.
    run_state: atWork && hypervisor === "qemu" ? null : await askRunState(record, signal),
    qmp,
    started_at,
    updated_at,
    note,
    journal: path,
    next: !atWork && (!settled || remains.length > 0)
      ? `migrate-agent resolve ${migration_id} --side ${side}`
      : null,
  };
}

/** Null when the agent does not listen yet, or has just ended. */
async function askCopied(
  { control, side }: JournalRecord,
  signal: AbortSignal,
): Promise<MigrationAccount["copied"]> {
  if (control === null) return null;
  try {
    const said = await askAgent(control, { request: { command: "status" }, side, signal });
    return v.parse(CopiedSchema, said);
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof AgentError) return null;
    throw error;
  }
}

/** Null also when QEMU does not answer: somebody else may be connected to it. */
async function askRunState(record: JournalRecord, signal: AbortSignal): Promise<string | null> {
  try {
    return await runStateOf(record, signal);
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof AgentError) return null;
    throw error;
  }
}

async function isThere(path: string): Promise<boolean> {
  try {
    await Deno.stat(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}
