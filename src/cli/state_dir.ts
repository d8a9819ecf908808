// Where the journals are: the option `--state-dir`, which every command that reads or writes them
// shares, and its default. Makes nothing and looks at no file.

import { type Given, type OptionSpec, type Surroundings, usageError } from "./option_spec.ts";
import { readPath } from "./values.ts";

export const STATE_DIR_OPTION = {
  name: "state-dir",
  value: "FOLDER",
  completes: "folder",
  default: "/var/lib/migrate-agent for root, else $XDG_STATE_HOME/migrate-agent",
  group: "Journals",
  help: "Where this host's journals of migrations are.",
} as const satisfies OptionSpec;

/** The folder of the journals. @throws AgentError of kind "usage" when there is none for this user */
export function readStateDir(given: Given<"state-dir">, around: Surroundings): string {
  return given.one("state-dir", readPath(around.cwd)) ?? defaultStateDir(around);
}

/** As the XDG base directory specification has it: a relative path there counts as none. */
function defaultStateDir({ uid, stateHome, home }: Surroundings): string {
  if (uid === 0) return "/var/lib/migrate-agent";
  if (stateHome?.startsWith("/")) return `${stateHome}/migrate-agent`;
  if (home?.startsWith("/")) return `${home}/.local/state/migrate-agent`;
  throw usageError(
    "no_state_dir",
    "No folder for journals: neither XDG_STATE_HOME nor HOME is set for this user: " +
      "give --state-dir FOLDER",
  );
}
