// The documents of the commands that look at journals or settle them, as `--json` prints them.
// docs/output.md specifies them, and a test holds the two against each other.

import type { Side } from "../base/errors.ts";
import type { JournalRecord } from "../migration/journal_record.ts";

/** One side of one migration, as its journal and the host show it. */
export interface MigrationAccount {
  migration_id: string;
  side: Side;
  hypervisor: JournalRecord["hypervisor"];
  guest: string;
  state: JournalRecord["state"];
  /** What the state means for the guest, for people. */
  meaning: string;
  phase: JournalRecord["phase"];
  /** The agent that works on it; null when none does. */
  agent_pid: number | null;
  /** What has been copied of disks and memory, as that agent says; null when none can be asked. */
  copied: { disk_bytes: number; disk_total_bytes: number; ram_bytes: number } | null;
  /** Address of the other agent. */
  peer: string | null;
  /** The guest's QEMU on this host, whether it lives or not; null when none is known. */
  qemu_pid: number | null;
  qemu_alive: boolean;
  /** What QEMU or Xen says of the guest; null when nobody was asked, as an agent is at work, or gone. */
  run_state: string | null;
  qmp: string | null;
  started_at: string;
  updated_at: string;
  note: string | null;
  journal: string;
  /** What to do about it; null when there is nothing to do. */
  next: string | null;
}

/** What `status` prints. */
export interface StatusLine {
  type: "status";
  time: string;
  state_dir: string;
  migrations: MigrationAccount[];
  /** Files that are not to be trusted: damaged, foreign, from a newer version. */
  damaged: { path: string; problem: string }[];
}

/** What `resolve` prints. */
export interface ResolvedLine {
  type: "resolved";
  time: string;
  migration_id: string;
  side: Side;
  guest: string;
  state_before: JournalRecord["state"];
  state: JournalRecord["state"];
  /** What `state` means for the guest, for people. */
  meaning: string;
  /** What QEMU or Xen says of the guest on this host; null when it is not here. */
  run_state: string | null;
  /** What was done on this host, in order. */
  done: string[];
  /** The journal, where it is kept for those who may still ask; null when it was removed. */
  journal: string | null;
}
