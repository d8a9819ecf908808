// What the operator's commands ask of the journals of this host: which one is meant, and what its
// guest's QEMU says.

import { AgentError, quote, type Side } from "../src/base/errors.ts";
import { queryRunState } from "../src/guest/settle_qemu.ts";
import type { JournalEntry } from "../src/migration/journal_file.ts";
import type { JournalRecord } from "../src/migration/journal_record.ts";
import { type StateFacts, STATES } from "../src/migration/ownership.ts";
import type { StateFolder } from "../src/migration/state_folder.ts";
import { queryRunState as queryDomainState } from "../src/xen/domain.ts";

/**
 * The journal of that migration; `side` null: of the one side that is on this host.
 * @throws AgentError `no_migration` (lists those that are there), `journal_damaged`, `two_sides` (kind
 *   refused)
 */
export async function pickJournal(
  folder: StateFolder,
  { id, side }: { id: string; side: Side | null },
): Promise<JournalRecord> {
  const entries = (await folder.find(id)).filter(({ path }) =>
    side === null || path.endsWith(`.${side}.json`)
  );
  const [entry, other] = entries;
  if (entry === undefined) throw noMigration(id, { side, folder, there: await folder.list() });
  if (other !== undefined) {
    throw new AgentError("two_sides", `This host is both sides of migration ${quote(id)}`, {
      kind: "refused",
      hint: "say which one is meant: --side source or --side destination",
    });
  }
  if ("record" in entry) return entry.record;
  throw new AgentError("journal_damaged", `The journal ${quote(entry.path)} ${entry.problem}`, {
    kind: "refused",
    hint: "it is not trusted: look at the guest on both hosts, then move the file away",
  });
}

/** What the guest on this host does, in QEMU's words or Xen's; null when it is not here. */
export async function runStateOf(
  { hypervisor, uuid, qmp, guest_process: process }: JournalRecord,
  signal: AbortSignal,
): Promise<string | null> {
  if (hypervisor === "xen") return uuid === null ? null : await queryDomainState(uuid, signal);
  return qmp === null || process === null
    ? null
    : await queryRunState({ qmp, process }, { signal });
}

/** What the rules say of the state that a journal is in. */
export function factsOf({ side, state }: Pick<JournalRecord, "side" | "state">): StateFacts {
  const states: Readonly<Record<string, StateFacts>> = STATES[side];
  return states[state]!; // the journal's schema lets no other pass
}

function noMigration(
  id: string,
  { side, folder, there }: { side: Side | null; folder: StateFolder; there: JournalEntry[] },
): AgentError {
  const ids = new Set(
    there.flatMap((entry) => "record" in entry ? [entry.record.migration_id] : []),
  );
  const known = ids.size === 0 ? "there are none" : `there are ${[...ids].join(", ")}`;
  const of = side === null ? "" : ` with this host as the ${side}`;
  return new AgentError(
    "no_migration",
    `No migration ${quote(id)}${of} in ${quote(folder.path)}: ${known}`,
    { kind: "refused", hint: "each host has its own journals; --state-dir names another folder" },
  );
}
