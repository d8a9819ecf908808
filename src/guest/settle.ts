// Puts a host in order after an agent that was killed: undoes the remains in its journal, newest
// first. Every kind can be undone twice, and after a part of it was undone. Decides nothing about who
// owns the guest. The kinds are those of base/remains.ts.

import { delay } from "../base/deadline.ts";
import { AgentError, describeError, quote } from "../base/errors.ts";
import { isSameProcess } from "../base/process_identity.ts";
import type { Remain } from "../base/remains.ts";
import { endProcess, findByArguments } from "./proc.ts";
import { type SettleOptions, settleSource } from "./settle_qemu.ts";

/** QEMU writes to its disks when it is told to end. */
const QEMU_GRACE_MS = 10_000;
const LOOK_AGAIN_MS = 20;

/** What is undone with Xen's own tools, of which this folder knows nothing. */
export type XenRemain = Extract<Remain, { kind: "xen_source" | "xen_domain" }>;

/** How a Xen remain is undone; src/xen/settle.ts does it. */
export type SettleXen = (
  remain: XenRemain,
  options: SettleOptions & { mayRun: boolean },
) => Promise<
  void
>;

export interface SettleOutcome {
  /** What could not be undone, in the order in which it was given. */
  left: Remain[];
  failures: AgentError[];
}

/** Whether something that lives is to be ended or changed, and nothing that only lies about. */
export function isLiving({ kind }: Remain): boolean {
  return kind !== "file" && kind !== "folder";
}

/**
 * Undoes what `remains` say, newest first, whatever becomes of the others; but files and folders stay
 * while something lives that could not be ended, since it may use them. Never throws for what fails.
 * @param options.mayRun whether the guest is this host's: else a source's guest is not let run
 */
export async function settleRemains(
  remains: readonly Remain[],
  options: SettleOptions & { mayRun: boolean; settleXen?: SettleXen },
): Promise<SettleOutcome> {
  const outcome: SettleOutcome = { left: [], failures: [] };
  const living = remains.filter(isLiving).reverse();
  const lying = remains.filter((remain) => !isLiving(remain)).reverse();
  for (const remain of [...living, ...lying]) {
    if (!isLiving(remain) && outcome.left.some(isLiving)) {
      outcome.left.unshift(remain);
      continue;
    }
    try {
      await settle(remain, options);
    } catch (cause) {
      options.signal.throwIfAborted();
      outcome.left.unshift(remain);
      outcome.failures.push(
        new AgentError("not_settled", `Cannot ${describeRemain(remain)}: ${describeError(cause)}`, {
          cause,
          hint: "see to the cause, then run the same command again",
        }),
      );
    }
  }
  outcome.left.sort((a, b) => remains.indexOf(a) - remains.indexOf(b));
  return outcome;
}

/** What undoing it amounts to: "remove the image '/d/a.raw'". */
export function describeRemain(remain: Remain): string {
  switch (remain.kind) {
    case "file":
      return `remove the image ${quote(remain.path)}`;
    case "folder":
      return `remove the folder ${quote(remain.path)}`;
    case "process":
      return `end ${remain.what} (process ${remain.process.pid})`;
    case "pid_file":
      return `end the QEMU that was started with the process id file ${quote(remain.path)}`;
    case "source_qemu":
      return `put the guest's QEMU (process ${remain.process.pid}) in order`;
    case "xen_source":
      return `put the Xen domain ${quote(remain.name)} in order`;
    case "xen_domain":
      return `destroy the Xen domain ${quote(remain.name)}`;
  }
}

async function settle(
  remain: Remain,
  options: SettleOptions & { mayRun: boolean; settleXen?: SettleXen },
): Promise<void> {
  const { log } = options;
  switch (remain.kind) {
    case "file":
      if (await removeFile(remain)) log(`removed the image ${quote(remain.path)}`);
      return;
    case "folder":
      if (await removeFolder(remain.path)) log(`removed the folder ${quote(remain.path)}`);
      return;
    case "process":
      if (!await isSameProcess(remain.process)) return;
      await endProcess(remain.process.pid, QEMU_GRACE_MS);
      return log(`ended ${remain.what} (process ${remain.process.pid})`);
    case "pid_file":
      return await endStarted(remain.path, options);
    case "source_qemu":
      return await settleSource(remain, options);
    case "xen_source":
    case "xen_domain":
      if (!options.settleXen) throw new Error("Xen's tools are not at hand");
      return await options.settleXen(remain, options);
  }
}

/** Only while the name leads to the very file that was made: another may have taken its place. */
async function removeFile(file: Extract<Remain, { kind: "file" }>): Promise<boolean> {
  const there = await lstatOrNull(file.path);
  if (!there || there.dev !== file.dev || there.ino !== file.ino) return false;
  await Deno.remove(file.path);
  return true;
}

async function removeFolder(path: string): Promise<boolean> {
  const there = await lstatOrNull(path);
  if (!there) return false;
  if (!there.isDirectory) throw new Error("it is no folder any more");
  await Deno.remove(path, { recursive: true });
  return true;
}

/**
 * Ends every process that was started with `-pidfile path`: what the file says could be the number of
 * another process by now, and a QEMU that is just being started has not written it yet.
 */
async function endStarted(path: string, { signal, log }: SettleOptions): Promise<void> {
  while (true) {
    const pids = await findByArguments(["-pidfile", path]);
    if (pids.length === 0) return;
    for (const pid of pids) {
      await endProcess(pid, QEMU_GRACE_MS);
      log(`ended the QEMU that was started here (process ${pid})`);
    }
    await delay(LOOK_AGAIN_MS, signal); // it may have forked while it was looked for
  }
}

async function lstatOrNull(path: string): Promise<Deno.FileInfo | null> {
  try {
    return await Deno.lstat(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) {
      return null;
    }
    throw error;
  }
}
