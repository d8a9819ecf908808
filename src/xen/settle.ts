// Puts a Xen host in order after an agent that was killed. What died with the agent needs nothing:
// qemu-nbd and `xl migrate-receive` end with it, and so does the program that `xl migrate` talks to; xl
// then lets its guest run on, unless it had asked the destination to run it. Every part can be done
// again.
// The kinds are those of base/remains.ts.

import { delay } from "../base/deadline.ts";
import { AgentError, quote } from "../base/errors.ts";
import { isSameProcess } from "../base/process_identity.ts";
import { findByArguments } from "../guest/proc.ts";
import type { XenRemain } from "../guest/settle.ts";
import { type SettleOptions, settleSource } from "../guest/settle_qemu.ts";
import { migrateArguments, type PipeCommand, recoverDomain } from "./recovery.ts";
import { destroyDomain, findByUuid } from "./xl.ts";

/** xl lets its guest run on as soon as it sees that nobody listens; a host under load takes a while. */
const XL_END_TIMEOUT_MS = 60_000;
const LOOK_AGAIN_MS = 50;

/**
 * Undoes one remain.
 * @param options.mayRun whether the guest is this host's: else the domain on the source stays
 *   suspended, and only its device model is put in order
 * @param options.pipe `migrate-agent xen-pipe`, for a domain that has to be resumed
 */
export async function settleXen(
  remain: XenRemain,
  options: SettleOptions & { mayRun: boolean; pipe: PipeCommand },
): Promise<void> {
  const { signal, mayRun, pipe, log } = options;
  signal.throwIfAborted();
  if (remain.kind === "xen_domain") return await endDomain(remain, options);
  const { uuid, name, qmp, process, should_run } = remain;
  // First the mirrors: the domain's resume goes through its device model.
  const lives = await isSameProcess(process);
  if (lives) {
    await settleSource(
      // xl stops and continues the device model itself; QEMU's own migration is not used.
      { kind: "source_qemu", qmp, process, should_run: false, settings: null },
      { signal, log, mayRun: false },
    );
  }
  if (!mayRun) return;
  await waitForXl(uuid, signal);
  if (!await recoverDomain({ uuid, name }, { pipe, run: lives })) {
    throw new AgentError(
      "domain_gone",
      `There is no domain ${quote(name)} (UUID ${uuid}) any more`,
    );
  }
  log(
    lives
      ? `domain ${quote(name)} goes on${should_run ? "" : ", paused"}`
      : `the device model of domain ${
        quote(name)
      } (process ${process.pid}) has ended, and its disks ` +
        `with it: unless it was started anew since, end it with xl destroy`,
  );
}

/** Ends the domain with that UUID on this host, whatever it is called; there may be none. */
export async function endDomain(
  { uuid }: { uuid: string },
  { log }: Pick<SettleOptions, "log">,
): Promise<void> {
  const found = await findByUuid(uuid);
  if (!found) return;
  await destroyDomain(found.domid);
  log(`destroyed the domain ${quote(found.name)}`);
}

/** Waits for the `xl migrate` that a killed agent has left: until then the domain is xl's. */
async function waitForXl(uuid: string, signal: AbortSignal): Promise<void> {
  const found = await findByUuid(uuid);
  if (!found) return;
  const words = migrateArguments(found.domid, []).slice(0, -1); // all but the command that xl runs
  const end = performance.now() + XL_END_TIMEOUT_MS;
  for (;;) {
    const pids = await findByArguments(words);
    if (pids.length === 0) return;
    if (performance.now() > end) {
      throw new AgentError(
        "xl_survives",
        `xl (process ${pids[0]}) still migrates the domain ${quote(found.name)}`,
        { hint: "end it with SIGTERM, never with SIGKILL: the guest would stay suspended" },
      );
    }
    await delay(LOOK_AGAIN_MS, signal); // only a parent is told of a process's end
  }
}
