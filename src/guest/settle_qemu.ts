// Puts a guest's own QEMU in order after the agent that worked on it was killed: at the source all that
// a migration has started or changed in it, at the destination the key and the paused guest. Each part
// looks first and may be gone already, so that all of it can be done again. Knows nothing of journals.
// Specification: QMP `query-yank`, `query-jobs`, `query-named-block-nodes`, `migrate_cancel`, `cont`.

import { Deadline } from "../base/deadline.ts";
import { AgentError, quote } from "../base/errors.ts";
import { isSameProcess, type ProcessIdentity } from "../base/process_identity.ts";
import type { Remain } from "../base/remains.ts";
import { QmpClient, QmpCommandError } from "../qmp/client.ts";
import { cutOffNodes, endJob, findMirrorNodes, isMirrorJob } from "./mirror_traces.ts";
import { hasKey, removeKey } from "./nbd_keys.ts";
import { cancelOutgoing, restoreSettings } from "./ram.ts";
import { resumeGuest } from "./resume.ts";
import { letRunOn } from "./run_state.ts";

/** For all that is done to one QEMU. */
const SETTLE_LIMIT_MS = 60_000;

export type SourceQemu = Extract<Remain, { kind: "source_qemu" }>;

/** Where a QEMU is found. */
export interface QemuPlace {
  qmp: string;
  process: ProcessIdentity;
}

export interface SettleOptions {
  signal: AbortSignal;
  /** Told what was done, one sentence without its end: "ended the mirror 'migrate-agent-0'". */
  log: (done: string) => void;
}

/**
 * Ends what a migration has started in the source's QEMU and puts back what it has changed.
 * A QEMU that has ended needs nothing.
 * @param options.mayRun whether the guest is this host's, and so runs on if it is meant to. Else
 *   it stays as it is.
 * @throws AgentError when it cannot be done whole; it can be done again
 */
export async function settleSource(
  remain: SourceQemu,
  options: SettleOptions & { mayRun: boolean },
): Promise<void> {
  const { mayRun, log } = options;
  await withQemu(remain, options, async (qmp, signal) => {
    const commands = new Set(
      (await qmp.execute("query-commands", {}, { signal })).map(({ name }) => name),
    );
    const nodes = await findMirrorNodes(qmp, signal);
    // First of all: what follows waits for block I/O, which a dead connection would never serve.
    if (commands.has("yank")) await cutOffNodes(qmp, { nodes, signal });
    // Untouched settings mean that no memory was sent yet: a migration would be somebody else's.
    if (
      remain.settings && await cancelOutgoing(qmp, { canYank: commands.has("yank"), signal })
    ) log("cancelled the migration of the memory");
    for (const { id } of await qmp.execute("query-jobs", {}, { signal })) {
      if (!isMirrorJob(id) || !await endJob(qmp, { id, signal })) continue;
      await qmp.execute("job-dismiss", { id }, { signal });
      log(`ended the mirror ${quote(id)}`);
    }
    for (const node of await findMirrorNodes(qmp, signal)) {
      await qmp.execute("blockdev-del", { "node-name": node }, { signal });
      log(`removed the block node ${quote(node)}`);
    }
    await settleKey(qmp, { signal, log });
    const { settings } = remain;
    if (settings) await restoreSettings(qmp, { settings, signal });
    if (mayRun && remain.should_run && await letRunOn(qmp, signal)) log("let the guest run on");
  });
}

/** What the guest of a destination is found to do. */
export type AcceptedGuest = { state: "running" | "paused" } | { state: "lost"; why: string };

/**
 * Lets a guest run that was accepted here before the agent was killed, or finds it running; takes the
 * migration's key away. `lost`: its QEMU has ended, or refuses to run it.
 * @param options.shouldRun false for a guest that was paused before: it stays so
 * @throws AgentError when QEMU cannot be asked
 */
export async function runAccepted(
  place: QemuPlace,
  options: SettleOptions & { shouldRun: boolean },
): Promise<AcceptedGuest> {
  const { shouldRun, log } = options;
  const found = await withQemu(place, options, async (qmp, signal): Promise<AcceptedGuest> => {
    const { running, status } = await qmp.execute("query-status", {}, { signal });
    // `cont` would be taken for later then, and be no answer now.
    if (status === "inmigrate") return { state: "lost", why: "its QEMU waits for more of it" };
    if (!running && shouldRun) {
      try {
        await resumeGuest(qmp, signal);
      } catch (error) {
        if (!(error instanceof QmpCommandError)) throw error;
        return { state: "lost", why: error.message };
      }
      log("let the guest run");
    }
    await settleKey(qmp, { signal, log });
    return { state: running || shouldRun ? "running" : "paused" };
  });
  return found ?? { state: "lost", why: `its QEMU (process ${place.process.pid}) has ended` };
}

/** QEMU's run state (`running`, `postmigrate`, ...); null when that QEMU has ended. */
export async function queryRunState(
  place: QemuPlace,
  options: { signal: AbortSignal },
): Promise<string | null> {
  return await withQemu(
    place,
    options,
    async (qmp, signal) => (await qmp.execute("query-status", {}, { signal })).status,
  );
}

async function settleKey(qmp: QmpClient, { signal, log }: SettleOptions): Promise<void> {
  if (!await hasKey(qmp, signal)) return;
  await removeKey(qmp, signal);
  log("made QEMU forget the key of the disks' connection");
}

/** `work` with a connection to that QEMU; null when it has ended, before or meanwhile. */
async function withQemu<T>(
  { qmp: path, process }: QemuPlace,
  options: { signal: AbortSignal },
  work: (qmp: QmpClient, signal: AbortSignal) => Promise<T>,
): Promise<T | null> {
  if (!await isSameProcess(process)) return null;
  using limit = new Deadline(
    SETTLE_LIMIT_MS,
    () =>
      new AgentError(
        "qemu_not_settled",
        `QEMU (process ${process.pid}) did not do what it was asked at ${quote(path)} ` +
          `within ${SETTLE_LIMIT_MS / 1000} s`,
        { kind: "timeout", hint: "see what it waits for; it can be tried again" },
      ),
    options.signal,
  );
  try {
    await using qmp = await QmpClient.connect(path, { signal: limit.signal });
    return await work(qmp, limit.signal);
  } catch (error) {
    if (!await isSameProcess(process)) return null;
    throw error;
  }
}
