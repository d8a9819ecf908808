// `migrate-agent status`: its options as data and their typed form. Knows no journal.

import { defineCommand } from "./option_spec.ts";
import { readStateDir, STATE_DIR_OPTION } from "./state_dir.ts";
import { readMigrationId } from "./values.ts";

export interface StatusOptions {
  command: "status";
  /** The one migration that is asked for; null: all of them. */
  id: string | null;
  stateDir: string;
  json: boolean;
}

export const STATUS_COMMAND = defineCommand({
  name: "status",
  summary: "show the migrations of this host and what to do about each",
  about: "Shows what the journals of this host say of every migration that goes on or that was " +
    "left behind, whether its agent and its guest's QEMU live, and the command to run next. " +
    "Changes nothing.",
  examples: [
    { task: "What goes on here, and what is to be done", line: "migrate-agent status" },
    { task: "For a script: one JSON document", line: "migrate-agent status --json" },
  ],
  positional: { name: "ID", required: false, completes: "migration" },
  options: [
    STATE_DIR_OPTION,
    { name: "json", group: "Output", help: "One JSON document on one line." },
  ],
  read(given, around): StatusOptions {
    return {
      command: "status",
      id: given.positional === null ? null : readMigrationId(given.positional, "ID"),
      stateDir: readStateDir(given, around),
      json: given.has("json"),
    };
  },
});
