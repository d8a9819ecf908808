// `migrate-agent receive`: its options as data and their typed form. What is given here is also the
// receiver's policy: what a command line that comes over the network may start, read and write.

import { quote } from "../base/errors.ts";
import { AGENT_OPTIONS, type AgentOptions, readAgentOptions } from "./agent_options.ts";
import {
  RECEIVE_CONNECTION_OPTIONS,
  type ReceiveConnection,
  refuseServeWithoutSecret,
} from "./connection_options.ts";
import {
  defineCommand,
  type Reader,
  refuseValue,
  type Surroundings,
  usageError,
} from "./option_spec.ts";
import {
  readDuration,
  readHost,
  readHostPort,
  readPair,
  readPath,
  readPortRange,
  readProgram,
  readSocketPath,
  readText,
} from "./values.ts";

export interface ReceiveOptions extends ReceiveConnection, AgentOptions {
  command: "receive";
  /** Disks may come from QEMU to QEMU without encryption. */
  insecureNbd: boolean;
  /** QMP socket of a QEMU that waits with `-incoming defer`. */
  adoptQmp: string | null;
  /** A command that starts the destination's QEMU. */
  launchCommand: string | null;
  /** The binaries that may be started; empty: the name of the source's, looked up in PATH. */
  qemuBinaries: string[];
  /** Where the destination's QMP socket shall be; null: in `runDir`. */
  qmp: string | null;
  runDir: string;
  diskDir: string | null;
  /** `name` is a device or the base name of a file. */
  diskPaths: { name: string; path: string }[];
  pathMaps: { from: string; to: string }[];
  /** Further folders that the guest's files may be read from or written to. */
  allowDirs: string[];
  bridges: string[];
  /** A VNC display on a TCP port, as the source had it, is opened here too. */
  allowVnc: boolean;
  /** `key` is KIND.ID.KEY of the guest's command line. */
  overrides: { key: string; value: string }[];
  /** Null: the address that the sender has reached. */
  nbdHost: string | null;
  /** Null: any free port. */
  nbdPorts: { first: number; last: number } | null;
  reuseDisks: boolean;
  serve: boolean;
  json: boolean;
  detach: boolean;
  /** Null: `receive-PID.log` in `runDir`. */
  log: string | null;
}

const TICKET_FOR_MS = 3_600_000;

export const RECEIVE_COMMAND = defineCommand({
  name: "receive",
  summary: "wait on this host for a guest that `send` moves here",
  about:
    "Waits for a sender, then starts the same machine here, takes in its disks and memory and " +
    "goes on with it. What a sender may have started, read or written here is bounded by these " +
    "options: QEMU binaries, folders and bridges that are not named are refused.",
  examples: [
    {
      task: "Receive one guest, its disks into a folder",
      line: "migrate-agent receive --listen 10.0.0.2:4444 --disk-dir /var/lib/guests " +
        "--ticket-file /root/ticket",
    },
    {
      task: "Put each disk somewhere else",
      line: "migrate-agent receive --listen 10.0.0.2:4444 --disk ide0-hd0=/dev/vg/vm1 " +
        "--disk data.qcow2=/srv/data.qcow2 --reuse-disks",
    },
    {
      task: "From a script: go to the background as soon as it listens, with address and ticket",
      line: "migrate-agent receive --disk-dir /var/lib/guests --detach --json --show-ticket",
    },
    {
      task: "Take the guest into a QEMU that somebody else started with -incoming defer",
      line: "migrate-agent receive --listen 127.0.0.1:4444 --adopt-qmp /run/vm1/qmp.sock",
    },
  ],
  options: [
    ...RECEIVE_CONNECTION_OPTIONS,
    ...AGENT_OPTIONS,
    {
      name: "qemu",
      value: "PATH",
      repeatable: true,
      completes: "file",
      default: "the name of the source's binary, looked up in PATH",
      group: "The guest's QEMU",
      help: "A QEMU binary that may be started (repeatable).",
    },
    {
      name: "adopt-qmp",
      value: "SOCKET",
      completes: "file",
      excludes: ["launch-command", "qemu", "qmp", "serve", "override", "allow-bridge", "allow-vnc"],
      group: "The guest's QEMU",
      help: "Start none: use the QEMU with this QMP socket, which waits with -incoming defer.",
    },
    {
      name: "launch-command",
      value: "COMMAND",
      completes: "command",
      excludes: ["qemu", "qmp", "override", "allow-bridge", "allow-vnc"],
      group: "The guest's QEMU",
      help: "Run this to start QEMU: it gets the guest's parameters as JSON on standard " +
        "input and names the QMP socket.",
    },
    {
      name: "qmp",
      value: "SOCKET",
      completes: "file",
      default: "in the run folder",
      excludes: ["serve"],
      group: "The guest's QEMU",
      help: "Where the QMP socket of the QEMU that is started shall be.",
    },
    {
      name: "override",
      value: "KIND.ID.KEY=VALUE",
      repeatable: true,
      group: "The guest's QEMU",
      help: "Change one property of the guest's command line, such as netdev.net0.ifname=tap7 " +
        "(repeatable).",
    },
    {
      name: "allow-bridge",
      value: "BRIDGE",
      repeatable: true,
      group: "The guest's QEMU",
      help: "A bridge that the guest may be attached to (repeatable).",
    },
    {
      name: "allow-vnc",
      group: "The guest's QEMU",
      help: "Open the guest's VNC display on the TCP port that it had; left out otherwise.",
    },
    {
      name: "disk-dir",
      value: "FOLDER",
      completes: "folder",
      group: "Disks and files",
      help: "Where disks go that no other option names a place for.",
    },
    {
      name: "disk",
      value: "NAME=PATH",
      repeatable: true,
      group: "Disks and files",
      help: "Where one disk goes, by its device or the name of its file (repeatable).",
    },
    {
      name: "path-map",
      value: "FROM=TO",
      repeatable: true,
      group: "Disks and files",
      help: "What is under FROM at the source is under TO here (repeatable).",
    },
    {
      name: "allow-dir",
      value: "FOLDER",
      repeatable: true,
      completes: "folder",
      group: "Disks and files",
      help: "A further folder that the guest's files may be read from and written to (repeatable).",
    },
    {
      name: "reuse-disks",
      group: "Disks and files",
      help: "Write over disks that are there already. Without it they are refused.",
    },
    {
      name: "run-dir",
      value: "FOLDER",
      completes: "folder",
      default: "/run/migrate-agent for root, else $XDG_RUNTIME_DIR/migrate-agent",
      group: "Disks and files",
      help: "Where sockets and logs of running guests are kept.",
    },
    {
      name: "json",
      group: "Output",
      help: "One JSON object per line; the last is the account.",
    },
    {
      name: "detach",
      group: "Output",
      help: "Return as soon as it listens, with one JSON object that says where, and live on.",
    },
    {
      name: "log",
      value: "FILE",
      completes: "file",
      default: "receive-PID.log in the run folder",
      needs: ["detach"],
      group: "Output",
      help: "Where a detached receiver writes its JSON lines.",
    },
  ],
  read(given, around): ReceiveOptions {
    const path = readPath(around.cwd);
    refuseServeWithoutSecret(given);
    const diskPaths = given.all("disk", readDiskPath(path));
    const overrides = given.all("override", readOverride);
    refuseRepeated("--disk", diskPaths.map((disk) => disk.name));
    refuseRepeated("--override", overrides.map((override) => override.key));
    return {
      command: "receive",
      ...readAgentOptions(given, around),
      listen: given.one("listen", readHostPort({ anyPort: true })) ??
        { host: "127.0.0.1", port: 0 },
      stdio: given.has("stdio"),
      insecure: given.has("insecure"),
      ticketFile: given.one("ticket-file", path),
      showTicket: given.has("show-ticket"),
      ticketForMs: given.one("ticket-for", readDuration()) ?? TICKET_FOR_MS,
      advertise: given.one("advertise", readHost),
      secretFile: given.one("secret-file", path),
      tls: given.has("tls-cert")
        ? { cert: given.must("tls-cert", path), key: given.must("tls-key", path) }
        : null,
      insecureNbd: given.has("insecure-nbd"),
      adoptQmp: given.one("adopt-qmp", readSocketPath(around.cwd)),
      launchCommand: given.one("launch-command", readText),
      qemuBinaries: given.all("qemu", readProgram(around.cwd)),
      qmp: given.one("qmp", readSocketPath(around.cwd)),
      runDir: given.one("run-dir", path) ?? defaultRunDir(around),
      diskDir: given.one("disk-dir", path),
      diskPaths,
      pathMaps: given.all("path-map", readPathMap(path)),
      allowDirs: given.all("allow-dir", path),
      bridges: given.all("allow-bridge", readText),
      allowVnc: given.has("allow-vnc"),
      overrides,
      nbdHost: given.one("nbd-host", readHost),
      nbdPorts: given.one("nbd-ports", readPortRange),
      reuseDisks: given.has("reuse-disks"),
      serve: given.has("serve"),
      json: given.has("json"),
      detach: given.has("detach"),
      log: given.one("log", path),
    };
  },
});

function defaultRunDir(around: Surroundings): string {
  if (around.uid === 0) return "/run/migrate-agent";
  if (around.runtimeDir?.startsWith("/")) return `${around.runtimeDir}/migrate-agent`;
  throw usageError(
    "no_run_dir",
    "No folder for sockets and logs: XDG_RUNTIME_DIR is not set for this user: give --run-dir FOLDER",
  );
}

function refuseRepeated(option: string, names: readonly string[]): void {
  const twice = names.find((name, at) => names.indexOf(name) !== at);
  if (twice !== undefined) refuseValue(option, quote(twice), "is given twice: give it once");
}

function readDiskPath(path: Reader<string>): Reader<{ name: string; path: string }> {
  return (text, option) => {
    const [name, target] = readPair("NAME=PATH, such as ide0-hd0=/srv/vm1.raw")(text, option);
    return { name, path: path(target, option) };
  };
}

function readPathMap(path: Reader<string>): Reader<{ from: string; to: string }> {
  return (text, option) => {
    const [from, to] = readPair("FROM=TO, such as /srv/a=/srv/b")(text, option);
    if (!from.startsWith("/")) {
      // It is a path of the other host: nothing here could make it absolute.
      refuseValue(option, quote(text), "starts with a relative path: FROM must begin with '/'");
    }
    return { from: path(from, option), to: path(to, option) };
  };
}

/** An empty VALUE takes the key away. */
const readOverride: Reader<{ key: string; value: string }> = (text, option) => {
  const at = text.indexOf("=");
  const key = text.slice(0, Math.max(at, 0));
  const parts = key.split(".");
  if (parts.length < 3 || parts.includes("")) {
    refuseValue(
      option,
      quote(text),
      "is not complete: give KIND.ID.KEY=VALUE, such as netdev.net0.ifname=tap7",
    );
  }
  return { key, value: text.slice(at + 1) };
};
