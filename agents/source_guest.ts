// Opens the guest that `send` was told to move, after what a killed sender has left in it was undone.

import type { SendOptions } from "../src/cli/send_command.ts";
import { identifySource, QemuSource, type SourceGuest } from "../src/guest/source.ts";
import { claimOfQemu } from "../src/migration/claims.ts";
import type { Report } from "../src/migration/events.ts";
import type { StateFolder } from "../src/migration/state_folder.ts";
import { resolveAbandoned } from "./resolve.ts";

/** @throws AgentError (kind refused) with the reason why it cannot be moved */
export async function openSource(
  options: SendOptions,
  around: { state: StateFolder; report: Report; signal: AbortSignal },
): Promise<SourceGuest> {
  const { qmp, qemuPid, copyStorage, disks: only, excludeDisks: exclude } = options;
  const { state, report, signal } = around;
  const claims = [claimOfQemu(await identifySource(qmp, qemuPid))];
  for (const done of await resolveAbandoned(state, { side: "source", claims, signal })) {
    report({
      type: "warning",
      code: "resolved",
      text: `Resolved migration ${done.migration_id}, whose sender was killed: ${
        done.done.join("; ") || "nothing was left of it"
      }`,
    });
  }
  return await QemuSource.open(qmp, {
    qemuPid,
    choice: { copyStorage, only, exclude },
    warn: (warning) => report({ type: "warning", ...warning }),
    signal,
  });
}
