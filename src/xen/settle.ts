// Puts a Xen host in order after an agent that was killed. What died with the agent needs nothing:
// qemu-nbd ends with it, and so does the program that `xl migrate` talks to; xl then lets its guest run
// on, unless it had asked the destination to run it. Every part can be done again.
// The kinds are those of base/remains.ts.

import { AgentError, quote } from "../base/errors.ts";
import { isSameProcess } from "../base/process_identity.ts";
import type { XenRemain } from "../guest/settle.ts";
import { type SettleOptions, settleSource } from "../guest/settle_qemu.ts";
import { type PipeCommand, recoverDomain } from "./recovery.ts";
import { destroyDomain, listDomains } from "./xl.ts";

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
  if (remain.kind === "xen_domain") return await destroyReceived(remain, options);
  const { uuid, name, qmp, process, should_run } = remain;
  // First the mirrors: the domain's resume goes through its device model.
  if (await isSameProcess(process)) {
    await settleSource(
      // xl stops and continues the device model itself; QEMU's own migration is not used.
      { kind: "source_qemu", qmp, process, should_run: false, settings: null },
      { signal, log, mayRun: false },
    );
  }
  if (!mayRun) return;
  if (!await recoverDomain({ uuid, name }, { pipe, run: true })) {
    throw new AgentError(
      "domain_gone",
      `There is no domain ${quote(name)} (UUID ${uuid}) any more`,
    );
  }
  log(`domain ${quote(name)} goes on${should_run ? "" : ", paused"}`);
}

/** The guest runs at the destination: ends the domain that xl has left suspended here. */
export async function endHandedOver(
  { uuid }: { uuid: string },
  { log }: Pick<SettleOptions, "log">,
): Promise<void> {
  const found = (await listDomains()).find((domain) => domain.uuid === uuid);
  if (!found) return;
  await destroyDomain(found.domid);
  log(`destroyed the domain ${quote(found.name)}`);
}

async function destroyReceived(
  { uuid, name }: { uuid: string; name: string },
  { log }: Pick<SettleOptions, "log">,
): Promise<void> {
  const found = (await listDomains()).find((domain) => domain.uuid === uuid);
  if (!found) return;
  await destroyDomain(found.domid);
  log(`destroyed the domain ${quote(found.name)} that was being received as ${quote(name)}`);
}
