// Processes of this host as /proc shows them (proc(5)): whether they live, what they have open; and
// ending one. Knows nothing of QEMU.

import { AgentError } from "../base/errors.ts";
import { abortReason, delay } from "../base/deadline.ts";
import { isGone, readStartTicks } from "../base/process_identity.ts";

/** Whether a process exists (a zombie has ended). */
export async function isAlive(pid: number): Promise<boolean> {
  return await readStartTicks(pid) !== null;
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
      if (isGone(error)) return;
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

/** The processes whose command line has these arguments in it, one right after the other. */
export async function findByArguments(args: readonly string[]): Promise<number[]> {
  const found: number[] = [];
  const wanted = `\0${args.join("\0")}\0`;
  for await (const { name } of Deno.readDir("/proc")) {
    const pid = Number(name);
    if (!Number.isInteger(pid)) continue;
    try {
      // A zombie's is empty.
      if ((await Deno.readTextFile(`/proc/${pid}/cmdline`)).includes(wanted)) found.push(pid);
    } catch (error) {
      if (!isGone(error)) throw error;
    }
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
    if (!(error instanceof Deno.errors.PermissionDenied || isGone(error))) throw error;
  }
  return targets;
}
