// Processes of this host as /proc shows them (proc(5)): whether they live, what they have open; and
// ending one. Knows nothing of QEMU.

import { AgentError } from "../base/errors.ts";
import { abortReason, delay } from "../base/deadline.ts";

/** Whether a process exists (a zombie has ended). */
export async function isAlive(pid: number): Promise<boolean> {
  try {
    const stat = await Deno.readTextFile(`/proc/${pid}/stat`);
    return stat.slice(stat.lastIndexOf(")") + 2, stat.lastIndexOf(")") + 3) !== "Z";
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || isGone(error)) return false;
    throw error;
  }
}

/**
 * Waits until the process has ended; gives false when it has not after `timeoutMs`. Linux tells
 * nobody but a parent, so this looks again every few milliseconds.
 */
export async function waitForExit(
  pid: number,
  options: { timeoutMs: number; signal?: AbortSignal },
): Promise<boolean> {
  const end = performance.now() + options.timeoutMs;
  while (await isAlive(pid)) {
    if (options.signal?.aborted) throw abortReason(options.signal);
    if (performance.now() > end) return false;
    await delay(10, options.signal);
  }
  return true;
}

/** Ends a process for certain: asks, waits, then kills. */
export async function endProcess(pid: number, graceMs = 3000): Promise<void> {
  for (const signal of ["SIGTERM", "SIGKILL"] as const) {
    try {
      Deno.kill(pid, signal);
    } catch (error) {
      if (error instanceof Deno.errors.NotFound || isGone(error)) return;
      throw error;
    }
    if (await waitForExit(pid, { timeoutMs: graceMs })) return;
  }
  throw new AgentError("process_survives", `Process ${pid} is still there after SIGKILL`);
}

/** The processes that have something open for which `match(target)` holds. */
export async function findProcesses(match: (target: string) => boolean): Promise<number[]> {
  const found: number[] = [];
  for await (const entry of Deno.readDir("/proc")) {
    const pid = Number(entry.name);
    if (Number.isInteger(pid) && (await openFiles(pid)).some(match)) found.push(pid);
  }
  return found;
}

/** Targets of a process's descriptors; empty when it is gone or not ours to look at. */
export async function openFiles(pid: number): Promise<string[]> {
  return [...(await openDescriptors(pid)).values()];
}

/** The same by descriptor. */
export async function openDescriptors(pid: number): Promise<Map<number, string>> {
  const targets = new Map<number, string>();
  try {
    for await (const fd of Deno.readDir(`/proc/${pid}/fd`)) {
      try {
        targets.set(Number(fd.name), await Deno.readLink(`/proc/${pid}/fd/${fd.name}`));
      } catch (error) {
        if (!(error instanceof Deno.errors.NotFound)) throw error; // closed meanwhile
      }
    }
  } catch (error) {
    const expected = error instanceof Deno.errors.NotFound ||
      error instanceof Deno.errors.PermissionDenied || isGone(error);
    if (!expected) throw error;
  }
  return targets;
}

/** ESRCH: the process ended between two looks. */
function isGone(error: unknown): boolean {
  return error instanceof Error && /os error 3\)|ESRCH/.test(error.message);
}
