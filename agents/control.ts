// What an agent at work lets the operator of its host do from another shell: cancel the migration,
// change its limits, see how far it is.

import { AgentError } from "../src/base/errors.ts";
import type { LocalSettings } from "../src/control/local_messages.ts";
import { LocalServer } from "../src/control/local_server.ts";
import type { Account } from "../src/migration/account.ts";
import type { Journal } from "../src/migration/journal.ts";
import type { Migration } from "../src/migration/migration.ts";
import { phaseOf } from "../src/migration/phases.ts";
import type { StateFolder } from "../src/migration/state_folder.ts";

export interface ControlOptions {
  journal: Journal;
  migration: Migration;
  account: Account;
  /** Gives a migration new limits; null where they are the other side's. */
  set: ((settings: LocalSettings, signal: AbortSignal) => Promise<void>) | null;
}

/** Listens for commands until it is disposed, and says so in the journal. */
export async function openControl(
  state: StateFolder,
  { journal, migration, account, set }: ControlOptions,
): Promise<LocalServer> {
  const { side } = migration;
  const path = state.nextSocketPath();
  await journal.update({ control: path }); // first: what is not written there would stay after a kill
  const server = await LocalServer.listen(path, {
    side,
    handlers: {
      cancel: (reason) => {
        refuseLateCancel(migration);
        migration.fail(new AgentError("cancelled", reason, { kind: "cancelled", side }));
        return Promise.resolve({});
      },
      set: async (settings, signal) => {
        if (set === null) throw notTheSender();
        await set(settings, signal);
        return {};
      },
      status: () => Promise.resolve(account.copied),
    },
  });
  return server;
}

/** @throws AgentError `too_late_to_cancel` (kind refused) */
function refuseLateCancel(migration: Migration): void {
  const { phase, side } = migration;
  if (phase === null || phaseOf(phase).cancellable) return;
  throw new AgentError(
    "too_late_to_cancel",
    "The guest is being handed over or runs at the destination: this cannot be cancelled any more",
    { kind: "refused", side, hint: `wait for its end: migrate-agent status ${migration.id}` },
  );
}

function notTheSender(): AgentError {
  return new AgentError("not_the_sender", "The limits are set at the sender", {
    kind: "refused",
    side: "destination",
    hint: "run the same command on the source host",
  });
}
