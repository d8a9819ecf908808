// Opens the guest that `send` was told to move, after what a killed sender has left in it was undone.

import type { SendOptions } from "../src/cli/send_command.ts";
import { identifySource, QemuSource, type SourceGuest } from "../src/guest/source.ts";
import { claimOfDomain, claimOfQemu } from "../src/migration/claims.ts";
import type { Report } from "../src/migration/events.ts";
import type { StateFolder } from "../src/migration/state_folder.ts";
import { findDomain } from "../src/xen/domain.ts";
import { XenSource } from "../src/xen/source.ts";
import { resolveAbandoned } from "./resolve.ts";
import { pipeCommand } from "./xen_pipe.ts";

/** @throws AgentError (kind refused) with the reason why it cannot be moved */
export async function openSource(
  options: SendOptions,
  around: { state: StateFolder; report: Report; signal: AbortSignal },
): Promise<SourceGuest> {
  const { guest, qemuPid, copyStorage, disks: only, excludeDisks: exclude } = options;
  const { report, signal } = around;
  const choice = { copyStorage, only, exclude };
  if ("xen" in guest) {
    const { uuid } = await findDomain(guest.xen, signal);
    await resolveBefore(claimOfDomain(uuid), around);
    // By its number: the resolution may have given it its name back.
    const { domid } = await findDomain(guest.xen, signal);
    return await XenSource.open(String(domid), { choice, pipe: pipeCommand(), signal });
  }
  await resolveBefore(claimOfQemu(await identifySource(guest.qmp, qemuPid)), around);
  return await QemuSource.open(guest.qmp, {
    qemuPid,
    choice,
    warn: (warning) => report({ type: "warning", ...warning }),
    signal,
  });
}

async function resolveBefore(
  claim: string,
  { state, report, signal }: { state: StateFolder; report: Report; signal: AbortSignal },
): Promise<void> {
  for (const done of await resolveAbandoned(state, { side: "source", claims: [claim], signal })) {
    report({
      type: "warning",
      code: "resolved",
      text: `Resolved migration ${done.migration_id}, whose sender was killed: ${
        done.done.join("; ") || "nothing was left of it"
      }`,
    });
  }
}
