// `migrate-agent resolve`: its options as data and their typed form. What it may do in which state
// is not decided here.

import type { Side } from "../base/errors.ts";
import { defineCommand } from "./option_spec.ts";
import { readStateDir, STATE_DIR_OPTION } from "./state_dir.ts";
import { readChoice, readMigrationId } from "./values.ts";

const SIDES = ["source", "destination"] as const satisfies readonly Side[];

export interface ResolveOptions {
  command: "resolve";
  id: string;
  /** This host's side of the migration; null: the one that has a journal here. */
  side: Side | null;
  /** The host that shall have the guest, in the operator's words; null: what the journals say. */
  keep: Side | null;
  stateDir: string;
  json: boolean;
}

export const RESOLVE_COMMAND = defineCommand({
  name: "resolve",
  summary: "put this host in order after a migration whose agent was killed",
  about:
    "Takes away what a killed agent left on this host (mirrors, keys, a QEMU that waits for a " +
    "guest, half-made disks) and lets the guest run on where the journal says that it belongs. It " +
    "can be run again at any time. Where the handover was sent and no answer came, no journal of " +
    "this host can say where the guest is: look at the other host, then say it with --keep.",
  examples: [
    { task: "Put this host in order", line: "migrate-agent resolve 6f1c2f0e" },
    {
      task: "At the source, after a look at the destination: the guest runs there",
      line: "migrate-agent resolve 6f1c2f0e --keep destination",
    },
    {
      task: "At the source, after a look at the destination: it never ran there and never will",
      line: "migrate-agent resolve 6f1c2f0e --keep source",
    },
  ],
  positional: { name: "ID", required: true, completes: "migration" },
  options: [
    {
      name: "keep",
      value: "HOST",
      completes: SIDES,
      group: "What is known",
      help:
        "Which host shall have the guest: `source` lets it run on there, `destination` ends it " +
        "at the source. What contradicts a journal is refused.",
    },
    {
      name: "side",
      value: "SIDE",
      completes: SIDES,
      group: "What is known",
      help: "Which side of the migration is meant, where one host was both.",
    },
    STATE_DIR_OPTION,
    { name: "json", group: "Output", help: "One JSON document on one line." },
  ],
  read(given, around): ResolveOptions {
    return {
      command: "resolve",
      id: readMigrationId(given.positional ?? "", "ID"),
      side: given.one("side", readChoice(SIDES)),
      keep: given.one("keep", readChoice(SIDES)),
      stateDir: readStateDir(given, around),
      json: given.has("json"),
    };
  },
});
