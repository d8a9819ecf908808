// `migrate-agent cancel` and `migrate-agent set`, which talk to an agent that is at work: their
// options as data and their typed form.

import { defineCommand, type Reader, usageError } from "./option_spec.ts";
import { readStateDir, STATE_DIR_OPTION } from "./state_dir.ts";
import { DOWNTIME_LIMIT_MAX_MS, readDuration, readMigrationId, readSize } from "./values.ts";

export interface CancelOptions {
  command: "cancel";
  id: string;
  stateDir: string;
}

export interface SetOptions {
  command: "set";
  id: string;
  /** Bytes per second for each disk, 0 for no limit; null: as it is. */
  diskBandwidth: number | null;
  /** Bytes per second for the memory, 0 for no limit; null: as it is. */
  ramBandwidth: number | null;
  /** Null: as it is. */
  downtimeLimitMs: number | null;
  stateDir: string;
}

export const CANCEL_COMMAND = defineCommand({
  name: "cancel",
  summary: "end a migration that goes on; the guest stays at the source",
  about: "Asks the agent that works on the migration to end it and to undo what was done, as " +
    "Ctrl-C would. It can be asked on either host until the guest is handed over; after that it " +
    "is refused.",
  examples: [{ task: "From another shell", line: "migrate-agent cancel 6f1c2f0e" }],
  positional: { name: "ID", required: true, completes: "migration" },
  options: [STATE_DIR_OPTION],
  read(given, around): CancelOptions {
    return {
      command: "cancel",
      id: readMigrationId(given.positional ?? "", "ID"),
      stateDir: readStateDir(given, around),
    };
  },
});

export const SET_COMMAND = defineCommand({
  name: "set",
  summary: "change the limits of a migration that goes on",
  about: "Gives the sender of a migration new limits while it works. To be run at the source. " +
    "What is not given stays as it is.",
  examples: [
    {
      task: "Leave the network room for others",
      line: "migrate-agent set 6f1c2f0e --bandwidth 50M",
    },
    {
      task: "Let the disks go as fast as they can, and accept a pause of a second",
      line: "migrate-agent set 6f1c2f0e --disk-bandwidth none --downtime-limit 1s",
    },
  ],
  positional: { name: "ID", required: true, completes: "migration" },
  options: [
    {
      name: "bandwidth",
      value: "SIZE",
      excludes: ["disk-bandwidth", "ram-bandwidth"],
      group: "Limits",
      help: "At most so many bytes a second for each disk, and for the memory; `none`: no limit.",
    },
    {
      name: "disk-bandwidth",
      value: "SIZE",
      group: "Limits",
      help: "At most so many bytes a second for each disk; `none`: no limit.",
    },
    {
      name: "ram-bandwidth",
      value: "SIZE",
      group: "Limits",
      help: "At most so many bytes a second for the memory; `none`: no limit.",
    },
    {
      name: "downtime-limit",
      value: "TIME",
      group: "Limits",
      help: "Switch over once QEMU expects a pause no longer than this: 300ms.",
    },
    STATE_DIR_OPTION,
  ],
  read(given, around): SetOptions {
    const both = given.one("bandwidth", readLimit);
    const changes = {
      diskBandwidth: both ?? given.one("disk-bandwidth", readLimit),
      ramBandwidth: both ?? given.one("ram-bandwidth", readLimit),
      downtimeLimitMs: given.one("downtime-limit", readDuration({ maxMs: DOWNTIME_LIMIT_MAX_MS })),
    };
    if (Object.values(changes).every((change) => change === null)) {
      throw usageError(
        "nothing_to_set",
        "Nothing to set: give --bandwidth, --disk-bandwidth, --ram-bandwidth or --downtime-limit",
      );
    }
    return {
      command: "set",
      id: readMigrationId(given.positional ?? "", "ID"),
      ...changes,
      stateDir: readStateDir(given, around),
    };
  },
});

/** A size, or 0 for `none`. */
const readLimit: Reader<number> = (text, option) => text === "none" ? 0 : readSize(text, option);
