// The end of a QEMU that waits for a guest, with the reason that QEMU itself has printed: its log goes
// with its folder, so whoever tells of its end must have read it before.

import { AgentError, quote } from "../base/errors.ts";
import type { DestinationQemu } from "./destination.ts";

/** Of the end of its log: enough for the few lines that QEMU prints before it gives up. */
const TAIL_BYTES = 2048;

/**
 * Aborts when that QEMU is gone, with an AgentError `destination_qemu_ended` that holds what it has
 * printed last. In the same turn in which its QMP connection ends, so that this reason is there before
 * any command fails with `qmp_lost`.
 */
export function endOfQemu({ qmp, pid, logFile }: DestinationQemu): AbortSignal {
  const ended = new AbortController();
  const tell = () => ended.abort(describeEnd(pid, { logFile, cause: qmp.ended.reason }));
  if (qmp.ended.aborted) tell();
  else qmp.ended.addEventListener("abort", tell, { once: true });
  return ended.signal;
}

function describeEnd(
  pid: number,
  { logFile, cause }: { logFile: string | undefined; cause: unknown },
): AgentError {
  const words = logFile === undefined ? "" : readTail(logFile);
  return new AgentError(
    "destination_qemu_ended",
    `The destination's QEMU (process ${pid}) is gone` +
      (words === "" ? "; it gave no reason" : `: ${quote(words, TAIL_BYTES)}`),
    { side: "destination", cause },
  );
}

/** The last lines of a log in one; empty when there are none, or none that can be read any more. */
function readTail(path: string): string {
  try {
    using file = Deno.openSync(path, { read: true });
    const { size } = file.statSync();
    file.seekSync(Math.max(0, size - TAIL_BYTES), Deno.SeekMode.Start);
    const bytes = new Uint8Array(TAIL_BYTES);
    const length = file.readSync(bytes) ?? 0;
    const lines = new TextDecoder().decode(bytes.subarray(0, length)).split("\n");
    return lines.map((line) => line.trim()).filter((line) => line !== "").join("; ");
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return "";
    return `its log cannot be read: ${error instanceof Error ? error.message : error}`;
  }
}
