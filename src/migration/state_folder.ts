// The folder with this host's journals: one file per migration and side. Begins journals, finds them,
// takes over those whose agent is dead; refuses what would make two agents work on one thing.

import { AgentError, describeError, quote, type Side } from "../base/errors.ts";
import { removeIfThere } from "../base/files.ts";
import type { ProcessIdentity } from "../base/process_identity.ts";
import { hasLivingAgent, refuseClaimed } from "./claims.ts";
import { withFolderLock } from "./folder_lock.ts";
import { Journal } from "./journal.ts";
import {
  damaged,
  type JournalEntry,
  journalName,
  listJournals,
  readJournal,
  removeJournal,
  removeLeftovers,
  trustAll,
  writeJournal,
} from "./journal_file.ts";
import {
  factsOf,
  JOURNAL_FORMAT,
  JOURNAL_VERSION,
  type JournalRecord,
  type NewJournal,
} from "./journal_record.ts";

/** How many this process has had. */
let sockets = 0;

/** Group or others may write. */
const TOO_OPEN = 0o022;

export class StateFolder {
  /** The real path. */
  readonly path: string;

  private constructor(path: string) {
    this.path = path;
  }

  /**
   * Makes the folder (mode 0700) unless it is there, and removes what killed processes left half
   * written in it.
   * @throws AgentError `state_folder_unusable` (kind refused) unless it is this user's alone to change
   */
  static async open(path: string): Promise<StateFolder> {
    try {
      await Deno.mkdir(path, { recursive: true, mode: 0o700 });
      const real = await Deno.realPath(path);
      const { uid, mode } = await Deno.stat(real);
      if (uid !== Deno.uid()) throw new Error(`it belongs to user ${uid}, not to this user`);
      if (((mode ?? 0) & TOO_OPEN) !== 0) throw new Error("others may write to it");
      await removeLeftovers(real);
      return new StateFolder(real);
    } catch (cause) {
      throw new AgentError(
        "state_folder_unusable",
        `Cannot use the state folder ${quote(path)}: ${describeError(cause)}`,
        { kind: "refused", hint: "Name a folder of this user by --state-dir.", cause },
      );
    }
  }

  /**
   * A path at which this process may listen for commands of this host; another one each time. Short:
   * little more than 100 bytes fit into the address of a unix socket.
   */
  nextSocketPath(): string {
    return `${this.path}/agent-${Deno.pid}-${++sockets}.sock`;
  }

  /**
   * Removes the journals of migrations that were settled so long ago that nobody asks any more; what is
   * not undone yet keeps its journal.
   */
  prune(olderThanMs: number): Promise<void> {
    return withFolderLock(this.path, async () => {
      for (const entry of await this.list()) {
        if ("problem" in entry) continue;
        const { record, path } = entry;
        const old = Date.now() - Date.parse(record.updated_at) > olderThanMs;
        const done = factsOf(record).settled && record.remains.length === 0;
        if (old && done && !await hasLivingAgent(record)) await removeJournal(path);
      }
    });
  }

  /** Every journal, by name; what is damaged or foreign with the reason. */
  list(): Promise<JournalEntry[]> {
    return listJournals(this.path);
  }

  /** The journals of one migration: one for each side that is on this host, or none. */
  async find(migrationId: string): Promise<JournalEntry[]> {
    const names = (["source", "destination"] as const).map((s) => journalName(migrationId, s));
    return (await this.list()).filter(({ path }) =>
      names.some((name) => path.endsWith(`/${name}`))
    );
  }

  /**
   * Writes the first form of a journal, with what it claims.
   * @throws AgentError kind refused: `in_use` when another migration of this host that is not settled
   * has one of the claims, or when there is a journal of that migration and side; `journal_damaged`
   * when a journal cannot be read, since nobody knows what it claims; or `journal_not_written`
   */
  begin(start: NewJournal): Promise<Journal> {
    return withFolderLock(this.path, async () => {
      const entries = await this.list();
      const same = trustAll(entries).find((other) =>
        other.migration_id === start.migration_id && other.side === start.side
      );
      if (same) throw alreadyThere(same);
      await refuseClaimed(start.claims, { by: start, entries });
      const now = new Date().toISOString();
      return await this.#write({
        format: JOURNAL_FORMAT,
        version: JOURNAL_VERSION,
        ...start,
        started_at: now,
        updated_at: now,
      });
    });
  }

  /**
   * Makes `agent` the process that works on a journal whose own agent is dead or has let go of it:
   * of two that try, one gets it. The dead agent's socket is removed.
   * @throws AgentError kind refused: `no_journal`, `journal_damaged`, `agent_alive`; or
   * `journal_not_written`
   */
  takeOver(
    migrationId: string,
    options: { side: Side; agent: ProcessIdentity; agentVersion: string },
  ): Promise<Journal> {
    const { side, agent, agentVersion } = options;
    return withFolderLock(this.path, async () => {
      const entry = await readJournal(`${this.path}/${journalName(migrationId, side)}`);
      if (entry === null) throw noJournal(migrationId, { side, folder: this.path });
      if ("problem" in entry) throw damaged(entry);
      const { record } = entry;
      if (await hasLivingAgent(record)) throw agentAlive(record);
      if (record.control !== null) await removeIfThere(record.control);
      return await this.#write({
        ...record,
        agent,
        agent_version: agentVersion,
        control: null,
        updated_at: new Date().toISOString(),
      });
    });
  }

  async #write(record: JournalRecord): Promise<Journal> {
    await writeJournal(this.path, record);
    return new Journal(this.path, record);
  }
}

function noJournal(id: string, { side, folder }: { side: Side; folder: string }): AgentError {
  return new AgentError(
    "no_journal",
    `There is no journal of migration ${quote(id)} for the ${side} in ${quote(folder)}`,
    { kind: "refused", side, hint: "'migrate-agent status' lists those that are there." },
  );
}

function alreadyThere({ migration_id, side, state }: JournalRecord): AgentError {
  return new AgentError(
    "in_use",
    `There is a journal of migration ${migration_id} for the ${side} already (state ${state})`,
    { kind: "refused", side, hint: `See what it says: migrate-agent status ${migration_id}` },
  );
}

function agentAlive({ migration_id, side, agent }: JournalRecord): AgentError {
  return new AgentError(
    "agent_alive",
    `Process ${agent?.pid} works on migration ${migration_id} (${side})`,
    { kind: "refused", side, hint: `To stop it: migrate-agent cancel ${migration_id}` },
  );
}
