// The options of `receive` and `send` that say how the two agents reach and know each other. Data, and
// the one rule about them: a connection is encrypted and both sides are proved, unless --insecure.

import { type Given, type OptionSpec, usageError } from "./option_spec.ts";
import { readHostPort, readPath, readText } from "./values.ts";
import type { HostPort } from "./values.ts";

const GROUP = "Connection";
export const NBD_WAYS = ["direct", "tunnel"] as const;

export const RECEIVE_CONNECTION_OPTIONS = [
  {
    name: "listen",
    value: "HOST:PORT",
    default: "127.0.0.1:0",
    group: GROUP,
    help: "Address to wait at. Port 0 is any free one; which one it is gets reported.",
  },
  {
    name: "ticket-file",
    value: "FILE",
    completes: "file",
    group: GROUP,
    help: "Write the ticket, which the sender needs, to this file (mode 0600).",
  },
  {
    name: "show-ticket",
    group: GROUP,
    help: "Print the ticket although standard output is no terminal: for a program that hands it " +
      "on. It is a secret.",
  },
  {
    name: "ticket-for",
    value: "TIME",
    default: "1h",
    group: GROUP,
    help: "How long the ticket is good for.",
  },
  {
    name: "advertise",
    value: "HOST",
    default: "the host of --listen, or this machine's first address",
    group: GROUP,
    help: "The host that the ticket names, when senders reach this one by another name.",
  },
  {
    name: "secret-file",
    value: "FILE",
    completes: "file",
    excludes: ["ticket-file", "show-ticket"],
    group: GROUP,
    help: "Instead of a ticket: a secret of 32 bytes or more that both hosts have.",
  },
  {
    name: "tls-cert",
    value: "FILE",
    completes: "file",
    needs: ["tls-key"],
    group: GROUP,
    help: "Show this certificate (PEM, with its chain) instead of one made for this run.",
  },
  {
    name: "tls-key",
    value: "FILE",
    completes: "file",
    needs: ["tls-cert"],
    group: GROUP,
    help: "The certificate's key (PEM).",
  },
  {
    name: "stdio",
    excludes: [
      "listen",
      "ticket-file",
      "show-ticket",
      "ticket-for",
      "advertise",
      "secret-file",
      "tls-cert",
      "insecure",
      "insecure-nbd",
      "nbd-host",
      "nbd-ports",
      "serve",
      "detach",
    ],
    group: GROUP,
    help: "Speak to the sender on standard input and output; what `send --via` starts.",
  },
  {
    name: "insecure",
    excludes: ["ticket-file", "show-ticket", "secret-file", "tls-cert"],
    group: GROUP,
    help: "No encryption and no proof of who connects, on both sides: for networks on which " +
      "everybody may see and take the guest.",
  },
  {
    name: "insecure-nbd",
    group: GROUP,
    help: "Take disks that travel unencrypted although the connection is encrypted.",
  },
  {
    name: "nbd-host",
    value: "HOST",
    default: "the address that the sender has reached",
    group: GROUP,
    help: "Address at which the disks are received.",
  },
  {
    name: "nbd-ports",
    value: "FIRST-LAST",
    default: "any free port",
    group: GROUP,
    help: "Ports of which one is used to receive the disks, for firewalls.",
  },
  {
    name: "once",
    excludes: ["serve"],
    group: GROUP,
    help: "Receive one guest, then end. This is the default.",
  },
  {
    name: "serve",
    group: GROUP,
    help: "Receive any number of guests, one after another or at once. Needs --secret-file (or " +
      "--insecure): a ticket is for one guest.",
  },
] as const satisfies readonly OptionSpec[];

export const SEND_CONNECTION_OPTIONS = [
  {
    name: "to",
    value: "HOST:PORT",
    group: GROUP,
    help: "Address of the receiver; a ticket names one already.",
  },
  {
    name: "ticket-file",
    value: "FILE",
    completes: "file",
    group: GROUP,
    help:
      "The receiver's ticket; `-` reads it from standard input. Without this option it is taken " +
      "from the environment variable MIGRATE_AGENT_TICKET.",
  },
  {
    name: "secret-file",
    value: "FILE",
    completes: "file",
    excludes: ["ticket-file"],
    needs: ["to"],
    group: GROUP,
    help: "Instead of a ticket: the secret that both hosts have.",
  },
  {
    name: "tls-ca",
    value: "FILE",
    completes: "file",
    excludes: ["insecure"],
    group: GROUP,
    help: "The authority (PEM) of a receiver that shows its operator's certificate.",
  },
  {
    name: "via",
    value: "ssh:[USER@]HOST[:PORT]",
    excludes: ["to", "ticket-file", "secret-file", "tls-ca", "insecure", "insecure-nbd", "nbd"],
    group: GROUP,
    help: "Start the receiver over ssh and speak to it there: no port is opened on either host.",
  },
  {
    name: "via-options",
    value: "OPTIONS",
    needs: ["via"],
    group: GROUP,
    help: "Options for that receiver, as one word: --via-options='--disk-dir /var/lib/guests'.",
  },
  {
    name: "via-program",
    value: "PATH",
    needs: ["via"],
    default: "migrate-agent",
    group: GROUP,
    help: "Where this program is on the other host.",
  },
  {
    name: "ssh-config",
    value: "FILE",
    completes: "file",
    needs: ["via"],
    group: GROUP,
    help: "Configuration file for ssh (its option -F).",
  },
  {
    name: "insecure",
    excludes: ["ticket-file", "secret-file"],
    needs: ["to"],
    group: GROUP,
    help: "No encryption and no proof of who receives, on both sides: for networks on which " +
      "everybody may see and take the guest.",
  },
  {
    name: "nbd",
    value: "WAY",
    completes: NBD_WAYS,
    default: "direct",
    needs: ["copy-storage"],
    group: GROUP,
    help: "How the disks travel: `direct` from QEMU to QEMU on a port of their own, or `tunnel`, " +
      "through the agents' connection, so that one open port is enough.",
  },
  {
    name: "insecure-nbd",
    needs: ["copy-storage"],
    group: GROUP,
    help: "Let the disks travel unencrypted although the connection is encrypted (on both sides).",
  },
] as const satisfies readonly OptionSpec[];

type ReceiveNames = (typeof RECEIVE_CONNECTION_OPTIONS)[number]["name"];
type SendNames = (typeof SEND_CONNECTION_OPTIONS)[number]["name"];

/** How a receiver shows who it is and knows who may connect. */
export interface ReceiveConnection {
  /** Port 0: any free one. */
  listen: HostPort;
  /** One connection on standard input and output, which ssh has secured, instead of a port. */
  stdio: boolean;
  /** No TLS and no proof. */
  insecure: boolean;
  ticketFile: string | null;
  showTicket: boolean;
  ticketForMs: number;
  /** Null: the host that it listens at. */
  advertise: string | null;
  /** Instead of a ticket. */
  secretFile: string | null;
  /** Null: a certificate made for this run. */
  tls: { cert: string; key: string } | null;
}

/** How a sender reaches the receiver. */
export type SendConnection =
  | { by: "insecure"; to: HostPort }
  | { by: "secret"; to: HostPort; secretFile: string; tlsCa: string | null }
  /** `file` null: from the environment; `to` null: where the ticket says. */
  | { by: "ticket"; to: HostPort | null; file: string | null; tlsCa: string | null }
  | { by: "ssh"; target: string; program: string; options: string; config: string | null };

/** @throws AgentError of kind "usage" when no way to the receiver is given */
export function readSendConnection<N extends SendNames>(
  given: Given<N | SendNames>,
  around: { cwd: string },
): SendConnection {
  const path = readPath(around.cwd);
  const to = given.one("to", readHostPort({ anyPort: false }));
  const target = given.one("via", readSshTarget);
  if (target !== null) {
    return {
      by: "ssh",
      target,
      program: given.one("via-program", readText) ?? "migrate-agent",
      options: given.one("via-options", readText) ?? "",
      config: given.one("ssh-config", path),
    };
  }
  const tlsCa = given.one("tls-ca", path);
  const secretFile = given.one("secret-file", path);
  if (given.has("insecure")) return { by: "insecure", to: to! };
  if (secretFile !== null) return { by: "secret", to: to!, secretFile, tlsCa };
  const file = given.one("ticket-file", (text, option) => text === "-" ? "-" : path(text, option));
  return { by: "ticket", to, file, tlsCa };
}

/** The rule that the table cannot say: a ticket is for one guest. */
export function refuseServeWithoutSecret<N extends ReceiveNames>(
  given: Given<N | ReceiveNames>,
): void {
  if (!given.has("serve") || given.has("secret-file") || given.has("insecure")) return;
  throw usageError(
    "missing_option",
    "--serve needs --secret-file: a ticket is for one guest",
    "make one on both hosts, for example from 32 bytes of /dev/urandom; or give --insecure",
  );
}

function readSshTarget(text: string, option: string): string {
  const target = /^ssh:((?:[\w.-]+@)?(?!-)[\w.-]+(?::\d{1,5})?)$/.exec(text)?.[1];
  if (target !== undefined) return target;
  throw usageError("bad_value", `${option} '${text}' is no way: give ssh:[USER@]HOST[:PORT]`);
}
