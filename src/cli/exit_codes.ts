// The exit codes, in one place. Documented in docs/output.md, "Exit codes", which a test holds
// against this table.

import type { ErrorKind } from "../base/errors.ts";

export interface ExitCode {
  readonly code: number;
  readonly name: string;
  /** The kind of error that ends with it; null for success. */
  readonly kind: ErrorKind | null;
  readonly meaning: string;
}

export const EXIT_CODES: readonly ExitCode[] = [
  {
    code: 0,
    name: "completed",
    kind: null,
    meaning: "The guest runs at the destination (or the command did what was asked).",
  },
  {
    code: 1,
    name: "internal",
    kind: "internal",
    meaning: "A defect of the program; the account says where the guest is.",
  },
  {
    code: 2,
    name: "usage",
    kind: "usage",
    meaning: "The command line is wrong; nothing was started.",
  },
  {
    code: 3,
    name: "refused",
    kind: "refused",
    meaning: "A check said no before anything was changed on either host.",
  },
  {
    code: 4,
    name: "failed",
    kind: "failed",
    meaning: "Something failed and was undone; the guest stays at the source.",
  },
  {
    code: 5,
    name: "cancelled",
    kind: "cancelled",
    meaning: "Somebody asked to stop; undone, the guest stays at the source.",
  },
  {
    code: 6,
    name: "uncertain",
    kind: "uncertain",
    meaning: "The handover was sent and no answer came: the guest is paused until it is resolved.",
  },
  {
    code: 7,
    name: "link",
    kind: "link",
    meaning: "The other agent was not reached or was lost; undone, the guest stays at the source.",
  },
  {
    code: 8,
    name: "timeout",
    kind: "timeout",
    meaning: "A time limit passed; undone, the guest stays at the source.",
  },
];

/** The code to exit with after an error of that kind, or after success when it is null. */
export function exitCodeOf(kind: ErrorKind | null): number {
  return EXIT_CODES.find((row) => row.kind === kind)!.code;
}
