// An error as people read it: one line that says what happened, on which side, in which phase; a
// line with what to do about it; a line for each thing that could not be undone.

import type { ErrorAccount } from "../migration/events.ts";
import { oneLine } from "./format.ts";

/** "migrate-agent: on the destination, phase params: Cannot ..." and the lines that belong to it. */
export function errorText(error: ErrorAccount): string {
  const where = [
    ...(error.side ? [`on the ${error.side}`] : []),
    ...(error.phase ? [`phase ${error.phase}`] : []),
  ].join(", ");
  const lines = ["migrate-agent: " + (where ? `${where}: ` : "") + error.message];
  if (error.hint) lines.push(`  hint: ${error.hint}`);
  for (const undo of error.undo) lines.push(`  not undone: ${undo}`);
  return lines.map((line) => oneLine(line) + "\n").join("");
}
