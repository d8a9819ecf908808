// The phases of a migration as data: order, owner, what ends a phase, what undoes it, which of the
// RFC's major steps it holds. The state machine, the log, the tables in docs/ and the tests over
// every phase are driven by this table; nothing else says what comes after what.

import type { Side } from "../base/errors.ts";

export type PhaseName =
  | "preflight"
  | "params"
  | "mirror"
  | "ram"
  | "switchover"
  | "handover"
  | "end";

export interface Phase {
  readonly name: PhaseName;
  /** What the phase is for, as it is shown to people. */
  readonly title: string;
  /** Left out without `--copy-storage`. */
  readonly storageOnly: boolean;
  /** Whose guest may run (or, when stopped, be continued) while the phase lasts. */
  readonly owner: Side | "destination_once_accepted";
  /** Whether the guest runs on its owner during the phase. */
  readonly guestRuns: boolean;
  /** What ends the phase with success. */
  readonly endsWith: string;
  /** What is done on each side when it fails. */
  readonly undo: { readonly source: string; readonly destination: string };
  /** Longest time in ms; null where only the operator's `--timeout` limits it. */
  readonly limitMs: number | null;
  /** Whether somebody may still cancel the migration. */
  readonly cancellable: boolean;
}

export const PHASES: readonly Phase[] = [
  {
    name: "preflight",
    title: "checking both hosts",
    limitMs: 60_000,
    storageOnly: false,
    owner: "source",
    guestRuns: true,
    endsWith: "the receiver's plan",
    undo: { source: "nothing was changed", destination: "nothing was changed" },
    cancellable: true,
  },
  {
    name: "params",
    title: "starting the guest's QEMU at the destination",
    limitMs: 300_000,
    storageOnly: false,
    owner: "source",
    guestRuns: true,
    endsWith: "the receiver's `prepared`",
    undo: {
      source: "nothing was changed",
      destination: "end the QEMU that was started, remove the disks that were made",
    },
    cancellable: true,
  },
  {
    name: "mirror",
    title: "mirroring the disks",
    limitMs: null,
    storageOnly: true,
    owner: "source",
    guestRuns: true,
    endsWith: "BLOCK_JOB_READY of every disk",
    undo: {
      source: "cancel the mirrors, delete their nodes",
      destination: "stop the NBD server",
    },
    cancellable: true,
  },
  {
    name: "ram",
    title: "sending the memory",
    limitMs: null,
    storageOnly: false,
    owner: "source",
    guestRuns: true,
    endsWith: "MIGRATION pre-switchover at the source",
    undo: { source: "cancel the migration", destination: "as before" },
    cancellable: true,
  },
  {
    name: "switchover",
    title: "switching over",
    limitMs: 60_000,
    storageOnly: false,
    owner: "source",
    guestRuns: false,
    endsWith: "MIGRATION completed on both sides",
    undo: { source: "`cont`", destination: "as before" },
    cancellable: true,
  },
  {
    name: "handover",
    title: "handing the guest over",
    limitMs: 30_000,
    storageOnly: false,
    owner: "destination_once_accepted",
    guestRuns: false,
    endsWith: "the receiver's `running`",
    undo: {
      source: "none: the guest stays paused until the answer is known",
      destination: "none once accepted",
    },
    cancellable: false,
  },
  {
    name: "end",
    title: "tidying up",
    limitMs: 30_000,
    storageOnly: false,
    owner: "destination_once_accepted",
    guestRuns: true,
    endsWith: "the source QEMU's end and the receiver's goodbye",
    undo: { source: "a warning", destination: "none" },
    cancellable: false,
  },
];

/** The seven "major steps" of the RFC, in its order, and the phase and event of ours that is each. */
export const RFC_STEPS: readonly { step: number; phase: PhaseName; text: string }[] = [
  { step: 1, phase: "preflight", text: "params sent from source to destination" },
  { step: 2, phase: "params", text: "QEMU waits at the destination with -incoming defer" },
  { step: 3, phase: "mirror", text: "mirrors started" },
  { step: 4, phase: "mirror", text: "BLOCK_JOB_READY of every mirror" },
  { step: 5, phase: "ram", text: "RAM stream started" },
  { step: 6, phase: "ram", text: "migrate-incoming at the destination" },
  { step: 7, phase: "handover", text: "guest goes on at the destination" },
];

/** The row of `PHASES` with that name. */
export function phaseOf(name: PhaseName): Phase {
  return PHASES.find((phase) => phase.name === name)!;
}
