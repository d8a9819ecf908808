// What a migration has to itself on its host (a guest, a disk), so that two senders for one guest or
// two receivers for one disk are found out. Claims stand in the journals; state_folder.ts compares them
// under its lock. Void by themselves when the migration needs nothing on this host any more.

import { AgentError, quote } from "../base/errors.ts";
import { isSameProcess, type ProcessIdentity } from "../base/process_identity.ts";
import { type JournalEntry, trustAll } from "./journal_file.ts";
import { factsOf, type JournalRecord } from "./journal_record.ts";

/** The guest's QEMU on the source. */
export function claimOfQemu({ pid, start_ticks }: ProcessIdentity): string {
  return `qemu:${pid}:${start_ticks}`;
}

/** A Xen domain, on either side. */
export function claimOfDomain(uuid: string): string {
  return `xen:${uuid.toLowerCase()}`;
}

/** An image at the destination; `path` is its real one. */
export function claimOfDisk(path: string): string {
  return `disk:${path}`;
}

/** The folder that a guest has at the destination. */
export function claimOfGuest(path: string): string {
  return `guest:${path}`;
}

/** A QMP socket; `path` is its real one. */
export function claimOfQmp(path: string): string {
  return `qmp:${path}`;
}

/** Whether an agent works on the migration: the process that its journal names, still that one. */
export async function hasLivingAgent({ agent }: Pick<JournalRecord, "agent">): Promise<boolean> {
  return agent !== null && await isSameProcess(agent);
}

/**
 * Refuses what another migration of this host has.
 * @throws AgentError (kind refused) `in_use`: which one, its state, and what to do; `journal_damaged`
 * when a journal cannot be read, since nobody knows what it claims
 */
export async function refuseClaimed(
  claims: readonly string[],
  options: { by: Pick<JournalRecord, "migration_id" | "side">; entries: readonly JournalEntry[] },
): Promise<void> {
  const { by, entries } = options;
  for (const other of trustAll(entries)) {
    // Both sides of one migration may be on one host, with disks that they share.
    if (other.migration_id === by.migration_id) continue;
    const shared = other.claims.find((claim) => claims.includes(claim));
    if (shared === undefined) continue;
    const alive = await hasLivingAgent(other);
    if (!claimsHold(other, alive)) continue;
    const agent = alive ? `process ${other.agent!.pid}` : "its agent has ended";
    throw new AgentError(
      "in_use",
      `Migration ${other.migration_id} of guest ${quote(other.guest)} already has ` +
        `${describeClaim(shared)} (${other.side}, state ${other.state}, ${agent})`,
      {
        kind: "refused",
        side: by.side,
        hint: alive
          ? `Wait for its end, or stop it: migrate-agent cancel ${other.migration_id}`
          : `Put it in order first: migrate-agent resolve ${other.migration_id}`,
      },
    );
  }
}

function claimsHold(record: JournalRecord, alive: boolean): boolean {
  // The guest runs here: once the agent has ended, it is its own QEMU that holds its disks.
  if (record.state === "running") return alive;
  // What remains is still to be removed or ended: nobody may begin to use it before.
  return !factsOf(record).settled || record.remains.length > 0;
}

function describeClaim(claim: string): string {
  const [kind, value = ""] = split(claim);
  switch (kind) {
    case "qemu":
      return `the guest's QEMU (process ${split(value)[0]})`;
    case "xen":
      return `the Xen domain with the UUID ${value}`;
    case "disk":
      return `the disk ${quote(value)}`;
    case "guest":
      return `the guest's folder ${quote(value)}`;
    case "qmp":
      return `the QMP socket ${quote(value)}`;
    default:
      return quote(claim);
  }
}

/** At the first colon. */
function split(text: string): [string, string] | [string] {
  const at = text.indexOf(":");
  return at < 0 ? [text] : [text.slice(0, at), text.slice(at + 1)];
}
