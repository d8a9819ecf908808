// What a run amounts to, gathered on the way and given as its last event, whatever happened.

import type { AgentError, Side } from "../base/errors.ts";
import type { AccountEvent, DiskAccount, ErrorAccount } from "./events.ts";
import type { Migration } from "./migration.ts";

export class Account {
  guest = "";
  /** Until the handover the guest is the source's. */
  owner: Side | null = "source";
  running = true;
  downtimeMs: number | null = null;
  ramBytes = 0;
  qmp: string | null = null;
  pid: number | null = null;
  error: AgentError | null = null;
  readonly disks: DiskAccount[] = [];

  /** Notes how much of a disk has been copied. */
  noteCopied(name: string, bytes: number): void {
    const disk = this.disks.find((candidate) => candidate.name === name);
    if (disk) disk.copied_bytes = bytes;
  }

  /** What has been copied so far, of all disks that are copied and of the memory. */
  get copied(): { disk_bytes: number; disk_total_bytes: number; ram_bytes: number } {
    const mirrored = this.disks.filter(({ action }) => action === "mirror");
    const sum = (bytes: (disk: DiskAccount) => number) =>
      mirrored.reduce((total, disk) => total + bytes(disk), 0);
    return {
      disk_bytes: sum((disk) => disk.copied_bytes),
      disk_total_bytes: sum((disk) => disk.virtual_size_bytes),
      ram_bytes: this.ramBytes,
    };
  }

  /** The account as it stands; the last event of the run. */
  finish(migration: Migration): AccountEvent {
    return {
      type: "account",
      outcome: outcomeOf(this.error),
      guest: this.guest,
      owner: this.owner,
      running: this.running,
      total_ms: Math.round(migration.elapsedMs),
      downtime_ms: this.downtimeMs === null ? null : Math.round(this.downtimeMs),
      phases: [...migration.durations],
      ram_bytes: this.ramBytes,
      disks: this.disks,
      qmp: this.qmp,
      pid: this.pid,
      error: this.error && accountOfError(this.error),
    };
  }
}

function outcomeOf(error: AgentError | null): AccountEvent["outcome"] {
  switch (error?.kind) {
    case undefined:
      return "completed";
    case "uncertain":
    case "cancelled":
    case "refused":
      return error!.kind;
    case "usage":
      return "refused";
    default:
      return "failed";
  }
}

/** The form in which an error stands in an account and in JSON. */
export function accountOfError(error: AgentError): ErrorAccount {
  return {
    code: error.code,
    kind: error.kind,
    message: error.message,
    hint: error.hint ?? null,
    side: error.side ?? null,
    phase: error.phase ?? null,
    undo: error.undoErrors.map((undo) => undo.message),
  };
}
