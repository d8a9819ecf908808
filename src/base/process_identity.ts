// Which process it is, beyond its number: numbers are used again, and a host may have been started
// anew. Knows nothing of what the process is. Linux: proc(5).

import * as v from "valibot";
import { AgentError } from "./errors.ts";

/** A process for as long as it lives, and nothing else ever after. */
export const ProcessIdentitySchema = v.strictObject({
  pid: v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(2 ** 31 - 1)),
  /** When it was started, in clock ticks since the host was. */
  start_ticks: v.pipe(v.number(), v.integer(), v.minValue(0)),
  /** Which start of the host: the ticks begin again with the next. */
  boot_id: v.pipe(v.string(), v.regex(/^[0-9a-f-]{36}$/)),
});

export type ProcessIdentity = v.InferOutput<typeof ProcessIdentitySchema>;

/** @throws AgentError `process_gone` when no such process lives (a zombie does not) */
export async function identifyProcess(pid: number): Promise<ProcessIdentity> {
  const startTicks = await readStartTicks(pid);
  if (startTicks === null) throw new AgentError("process_gone", `Process ${pid} is not there`);
  return { pid, start_ticks: startTicks, boot_id: await readBootId() };
}

/** Whether that very process lives. */
export async function isSameProcess(identity: ProcessIdentity): Promise<boolean> {
  return await readStartTicks(identity.pid) === identity.start_ticks &&
    await readBootId() === identity.boot_id;
}

/** When the process was started, in clock ticks since the host was; null when it has ended. */
export async function readStartTicks(pid: number): Promise<number | null> {
  let stat: string;
  try {
    stat = await Deno.readTextFile(`/proc/${pid}/stat`);
  } catch (error) {
    if (isGone(error)) return null;
    throw error;
  }
  // The second field is the program's name in brackets, and may hold spaces and brackets itself.
  const [state, ...rest] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return state === "Z" || state === "X" ? null : Number(rest[18]); // fields 3 and 22
}

async function readBootId(): Promise<string> {
  return (await Deno.readTextFile("/proc/sys/kernel/random/boot_id")).trim();
}

/** Whether a failure says that there is no such process, or (ESRCH) none any more. */
export function isGone(error: unknown): boolean {
  return error instanceof Deno.errors.NotFound ||
    error instanceof Error && /os error 3\)|ESRCH/.test(error.message);
}
