// `migrate-agent send`: its options as data and their typed form. Knows nothing of what a
// migration does with them.

import { AGENT_OPTIONS, type AgentOptions, readAgentOptions } from "./agent_options.ts";
import {
  NBD_WAYS,
  readSendConnection,
  SEND_CONNECTION_OPTIONS,
  type SendConnection,
} from "./connection_options.ts";
import { MAX_WAIT_MS } from "../control/messages.ts";
import { defineCommand, type Given, type Surroundings, usageError } from "./option_spec.ts";
import {
  DOWNTIME_LIMIT_MAX_MS,
  readChoice,
  readDuration,
  readList,
  readPid,
  readSize,
  readSocketPath,
  readText,
} from "./values.ts";

/** @throws AgentError (kind usage) */
function readGuest(given: Given<"xen" | "qmp">, around: Surroundings): SendOptions["guest"] {
  const xen = given.one("xen", readText);
  if (xen !== null) return { xen };
  if (given.has("qmp")) return { qmp: given.must("qmp", readSocketPath(around.cwd)) };
  throw usageError(
    "missing_option",
    "No guest is named for send: give --qmp SOCKET, or --xen DOMAIN",
    "'migrate-agent help send' shows examples",
  );
}

const SOURCE_AFTER = ["quit", "paused"] as const;
const HANDOVER_TIMEOUT_MS = 60_000;

export interface SendOptions extends AgentOptions {
  command: "send";
  connection: SendConnection;
  /** The guest: a Xen domain by its name or id, or whose QEMU has this QMP socket (absolute path). */
  guest: { xen: string } | { qmp: string };
  /** The source QEMU's process, for when the socket's owner cannot be found. */
  qemuPid: number | null;
  copyStorage: boolean;
  /** The only disks to copy; null: all that can be written to. */
  disks: string[] | null;
  excludeDisks: string[];
  /** Bytes per second for each disk; null: no limit. */
  diskBandwidth: number | null;
  /** Bytes per second; null: no limit. */
  ramBandwidth: number | null;
  downtimeLimitMs: number | null;
  autoConverge: boolean;
  /** The whole migration up to the handover; null: no limit. */
  timeoutMs: number | null;
  /** How long a lost connection may take to be found again; 0: its loss ends the migration. */
  reconnectMs: number;
  /** How long to ask for the answer to a handover that was not answered. */
  handoverTimeoutMs: number;
  /** What becomes of the source QEMU once the guest runs at the destination. */
  sourceAfter: (typeof SOURCE_AFTER)[number];
  /** How the disks travel: from QEMU to QEMU, or through the agents' own connection. */
  nbd: (typeof NBD_WAYS)[number];
  /** Disks from QEMU to QEMU without encryption. */
  insecureNbd: boolean;
  json: boolean;
}

export const SEND_COMMAND = defineCommand({
  name: "send",
  summary: "move a guest of this host to the host where `receive` waits",
  about:
    "Moves the running guest behind a QMP socket, or a Xen HVM domain, to another host. Until the guest has been " +
    "handed over it stays here: whatever fails before, it runs on as if nothing had been tried. " +
    "Without --copy-storage the disks are taken to be shared by both hosts, and only the guest's " +
    "parameters and memory are sent.",
  examples: [
    {
      task: "Move a guest with its disks",
      line: "migrate-agent send -q --ticket-file ticket --qmp /run/vm1/qmp.sock",
    },
    {
      task: "Shared storage: move only its memory, with a pause of at most 100 ms",
      line:
        "migrate-agent send --ticket-file ticket --qmp /run/vm1/qmp.sock --downtime-limit 100ms",
    },
    {
      task: "Move a Xen HVM domain with its disks",
      line: "migrate-agent send -q --ticket-file ticket --xen vm1",
    },
    {
      task: "Leave the network room for others, give up after an hour",
      line: "migrate-agent send -q --ticket-file ticket --qmp /run/vm1/qmp.sock " +
        "--disk-bandwidth 50M --ram-bandwidth 200M --timeout 1h",
    },
    {
      task: "From a script: one JSON object per line, the account last",
      line: "migrate-agent send -q --ticket-file ticket --qmp /run/vm1/qmp.sock --json | tail -n 1",
    },
  ],
  options: [
    {
      name: "qmp",
      value: "SOCKET",
      completes: "file",
      group: "The guest and where it goes",
      help: "The guest's QMP socket on this host (a path, `unix:` in front of it is accepted).",
    },
    {
      name: "xen",
      value: "DOMAIN",
      excludes: ["qmp", "qemu-pid", "source-after", "auto-converge", "downtime-limit"],
      group: "The guest and where it goes",
      help: "Instead of --qmp: the guest is this Xen HVM domain (its name or id).",
    },
    {
      name: "qemu-pid",
      value: "PID",
      group: "The guest and where it goes",
      help: "The guest's QEMU process; needed only when the owner of the socket cannot be found.",
    },
    {
      name: "source-after",
      value: "WHAT",
      completes: SOURCE_AFTER,
      default: "quit",
      group: "The guest and where it goes",
      help: "What becomes of the QEMU here once the guest runs there: quit, or left paused.",
    },
    {
      name: "copy-storage",
      short: "q",
      group: "Disks",
      help: "Copy the disks too. Without it they are taken to be shared by both hosts.",
    },
    {
      name: "disks",
      value: "NAMES",
      needs: ["copy-storage"],
      excludes: ["exclude-disks"],
      group: "Disks",
      help: "Copy these alone (names separated by commas); the others are taken to be shared.",
    },
    {
      name: "exclude-disks",
      value: "NAMES",
      needs: ["copy-storage"],
      group: "Disks",
      help: "Copy all but these, which are taken to be shared.",
    },
    {
      name: "disk-bandwidth",
      value: "SIZE",
      needs: ["copy-storage"],
      group: "Limits",
      help: "At most so many bytes a second for each disk: 100M is 100 MiB/s.",
    },
    {
      name: "ram-bandwidth",
      value: "SIZE",
      group: "Limits",
      help: "At most so many bytes a second for the memory.",
    },
    {
      name: "downtime-limit",
      value: "TIME",
      group: "Limits",
      help: "Switch over once QEMU expects a pause no longer than this: 300ms.",
    },
    {
      name: "auto-converge",
      group: "Limits",
      help: "Slow the guest's processors down when its memory changes faster than it can be sent.",
    },
    {
      name: "timeout",
      value: "TIME",
      group: "Limits",
      help: "Give up, and undo everything, when the handover is not reached in this time: 10m.",
    },
    {
      name: "reconnect",
      value: "TIME",
      excludes: ["via"],
      default: "no: the migration is undone",
      group: "Limits",
      help:
        "How long a connection that is lost while disks or memory are sent may take to be found " +
        "again, without copying the disks twice: 60s.",
    },
    {
      name: "handover-timeout",
      value: "TIME",
      default: "1m",
      group: "Limits",
      help:
        "How long to ask for the answer when it does not come after the guest was handed over. " +
        "It stands still meanwhile; after that an operator has to resolve it (exit code 6).",
    },
    ...AGENT_OPTIONS,
    ...SEND_CONNECTION_OPTIONS,
    { name: "json", group: "Output", help: "One JSON object per line; the last is the account." },
  ],
  read(given, around): SendOptions {
    return {
      command: "send",
      ...readAgentOptions(given, around),
      reconnectMs: given.one("reconnect", readDuration({ maxMs: MAX_WAIT_MS })) ?? 0,
      handoverTimeoutMs: given.one("handover-timeout", readDuration({ maxMs: MAX_WAIT_MS })) ??
        HANDOVER_TIMEOUT_MS,
      connection: readSendConnection(given, around),
      guest: readGuest(given, around),
      qemuPid: given.one("qemu-pid", readPid),
      copyStorage: given.has("copy-storage"),
      disks: given.one("disks", readList),
      excludeDisks: given.one("exclude-disks", readList) ?? [],
      diskBandwidth: given.one("disk-bandwidth", readSize),
      ramBandwidth: given.one("ram-bandwidth", readSize),
      downtimeLimitMs: given.one("downtime-limit", readDuration({ maxMs: DOWNTIME_LIMIT_MAX_MS })),
      autoConverge: given.has("auto-converge"),
      timeoutMs: given.one("timeout", readDuration()),
      sourceAfter: given.one("source-after", readChoice(SOURCE_AFTER)) ?? "quit",
      nbd: given.one("nbd", readChoice(NBD_WAYS)) ?? "direct",
      insecureNbd: given.has("insecure-nbd"),
      json: given.has("json"),
    };
  },
});
