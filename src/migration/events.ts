// What happened, as typed objects: the one vocabulary between the stories (which report) and the
// printers (which show). The shapes are documented in docs/output.md, and a test holds the two
// against each other. Times are ISO 8601 in UTC; sizes are bytes; durations are milliseconds.

import type { ErrorKind, Side } from "../base/errors.ts";
import type { PhaseName } from "./phases.ts";

/** What every event carries. `phase` is null before the first and for events outside a migration. */
export interface EventHead {
  time: string;
  /** The side that says it. */
  side: Side;
  phase: PhaseName | null;
  migration_id: string | null;
}

/** The receiver accepts connections. The one document of `receive --detach`. */
export interface ListeningEvent {
  type: "listening";
  host: string;
  port: number;
  pid: number;
  /** Where a detached receiver writes its lines; null when it writes them on standard output. */
  log: string | null;
  /** What the sender needs to connect, if it is to be shown here. A secret. */
  ticket: string | null;
}

export interface StartedEvent {
  type: "started";
  guest: string;
  /** Address of the other agent. */
  peer: string;
  copy_storage: boolean;
}

export interface PhaseEvent {
  type: "phase";
  title: string;
}

/** One of the RFC's seven major steps has been reached. */
export interface StepEvent {
  type: "step";
  step: number;
  text: string;
}

/** A disk, and what is done with it. */
export interface DiskEvent {
  type: "disk";
  disk: string;
  action: "mirror" | "shared" | "present" | "empty";
  virtual_size_bytes: number;
  format: string;
  /** Path at this event's side; null for an empty drive. */
  path: string | null;
  /** The backing chain was copied flat into one image. */
  flattened: boolean;
}

export interface DiskProgressEvent {
  type: "disk_progress";
  disk: string;
  done_bytes: number;
  total_bytes: number;
  rate_bytes_per_s: number;
  /** Everything was copied once (BLOCK_JOB_READY). */
  ready: boolean;
}

export interface RamProgressEvent {
  type: "ram_progress";
  transferred_bytes: number;
  remaining_bytes: number;
  total_bytes: number;
  rate_bytes_per_s: number;
  /** Passes over the memory so far. */
  iteration: number;
  /** What QEMU expects the pause to be, null while it does not know. */
  expected_downtime_ms: number | null;
}

/** Something that an operator should know and that stops nothing. */
export interface WarningEvent {
  type: "warning";
  code: string;
  text: string;
}

export interface DiskAccount {
  name: string;
  action: "mirror" | "shared" | "present" | "empty";
  virtual_size_bytes: number;
  copied_bytes: number;
  flattened: boolean;
  /** Path at the destination. */
  path: string | null;
}

/** The last line of a run, of either side, whatever happened. */
export interface AccountEvent {
  type: "account";
  outcome: "completed" | "failed" | "cancelled" | "refused" | "uncertain";
  guest: string;
  /** Which host's guest may run now; null while that is uncertain. */
  owner: Side | null;
  /** Whether it runs there (false: it is paused, as it was before). */
  running: boolean;
  total_ms: number;
  /** From the guest's stop at the source to the destination's `running`, seen by the sender. */
  downtime_ms: number | null;
  phases: { phase: PhaseName; ms: number }[];
  ram_bytes: number;
  disks: DiskAccount[];
  /** What an operator needs to go on: the destination's QMP socket and process. */
  qmp: string | null;
  pid: number | null;
  error: ErrorAccount | null;
}

export interface ErrorAccount {
  code: string;
  kind: ErrorKind;
  message: string;
  hint: string | null;
  side: Side | null;
  phase: string | null;
  /** What failed while undoing: something may be left behind. */
  undo: string[];
}

export type EventBody =
  | ListeningEvent
  | StartedEvent
  | PhaseEvent
  | StepEvent
  | DiskEvent
  | DiskProgressEvent
  | RamProgressEvent
  | WarningEvent
  | AccountEvent;

export type AgentEvent = EventHead & EventBody;

/** Where a story reports to. */
export type Report = (body: EventBody) => void;
