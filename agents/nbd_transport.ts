// How the disks travel: straight from QEMU to the destination's NBD servers, encrypted with a key made
// for this migration; or through streams of the agents' own connection ("tunnel"), each of which begins
// with one byte: the number of the server that it is for.
// Specification: docs/protocol.md, "prepare".

import { AgentError } from "../src/base/errors.ts";
import type { ReplyBody, RequestBody } from "../src/control/messages.ts";
import type { NbdListen as ListenAt } from "../src/guest/exports.ts";
import type { QemuFeatures } from "../src/guest/features.ts";
import type { NbdServer } from "../src/guest/mirror.ts";
import {
  joinConnections,
  type NbdConnections,
  probeNbd,
  tcpConnections,
} from "../src/guest/nbd_connections.ts";
import { makePskKey, PskCredentials } from "../src/guest/nbd_keys.ts";
import type { PrivateFolder } from "../src/guest/private_folder.ts";
import type { Migration } from "../src/migration/migration.ts";
import type { QmpClient } from "../src/qmp/client.ts";
import type { WireStream } from "../src/wire/stream.ts";
import type { Line } from "./line.ts";
import { LocalListener, relayAllToSocket } from "./local_relay.ts";

type Transport = RequestBody<"prepare">["nbd"];
type NbdReply = ReplyBody<"prepare">["nbd"];
type ExportNames = ReplyBody<"prepare">["exports"];

/** Where the NBD servers listen; `host` is what the sender is told. Null: only in a tunnel. */
export type NbdListen = { host: string; ports: { first: number; last: number } | null } | null;

/** What can serve the guest's disks at the destination. */
export interface DiskServers {
  /** Whether it can encrypt with a key. */
  readonly encrypts: boolean;
  /**
   * Starts every server that the disks need.
   * @param options.again the ports at which they listened before; null at the first start
   */
  start(options: {
    listen: ListenAt;
    again: readonly number[] | null;
    key: string | null;
    signal: AbortSignal;
  }): Promise<StartedServers>;
}

/** Servers by number: each has a port, or each has a socket. */
export interface StartedServers {
  ports: number[];
  paths: string[];
  exports: ExportNames;
}

/** What serves the disks, as the sender is told it. */
export interface ServedNbd {
  nbd: NbdReply;
  exports: ExportNames;
  /** The servers' sockets behind a tunnel. */
  paths: string[];
}

const SOCKET_NAME = "nbd.sock";

/** The source's QEMU and what the transport needs besides. */
export interface NbdEnd {
  qmp: QmpClient;
  pid: number;
  folder: PrivateFolder;
  line: Line;
  migration: Migration;
}

/** What the sender asks for. A connection that is not encrypted has nothing to protect either. */
export function chooseTransport(options: {
  tunnel: boolean;
  insecureNbd: boolean;
  encrypted: boolean;
  features: QemuFeatures;
}): Transport {
  const { tunnel, insecureNbd, encrypted, features } = options;
  if (tunnel) return "tunnel";
  if (!encrypted || insecureNbd) return "direct";
  return features.psk ? "encrypted" : "tunnel";
}

/** The destination's end: starts the servers; what the sender is told. */
export async function serveNbd(servers: DiskServers, options: {
  folder: PrivateFolder;
  line: Line;
  migration: Migration;
  asked: Transport;
  /** Whether disks may cross the network readable for everybody on it. */
  allowPlain: boolean;
  listen: NbdListen;
  /** Servers that the sender knows already, and that these take the place of. */
  before: ServedNbd | null;
  signal: AbortSignal;
}): Promise<ServedNbd> {
  const { folder, asked, listen, before, signal } = options;
  if (asked === "direct" && !options.allowPlain) {
    throw new AgentError("plain_nbd_refused", "The sender wants to send the disks unencrypted", {
      kind: "refused",
      side: "destination",
      hint: "give --insecure-nbd to both sides, or to none",
    });
  }
  if (asked === "tunnel" || listen === null || (asked === "encrypted" && !servers.encrypts)) {
    const path = `${folder.path}/${SOCKET_NAME}`;
    const at = { listen: { type: "unix" as const, path }, again: null, key: null, signal };
    const { paths, exports } = await servers.start(at);
    const served = { nbd: { transport: "tunnel" as const }, exports, paths };
    if (before) return Object.assign(before, served); // its relay goes on, to these servers
    relayTunnel(served, options);
    return served;
  }
  const known = before?.nbd?.transport === "direct" ? before.nbd : null;
  const key = asked === "encrypted" ? known?.psk_key ?? makePskKey() : null;
  const { host } = listen;
  const { ports, exports } = await servers.start({
    listen: { type: "inet", ...listen },
    again: known?.ports ?? null,
    key,
    signal,
  });
  return { nbd: { transport: "direct", host, ports, psk_key: key }, exports, paths: [] };
}

/** Joins each stream that the sender opens for a connection to the server that it is for. */
function relayTunnel(
  served: Pick<ServedNbd, "paths">,
  { line, migration }: { line: Line; migration: Migration },
): void {
  const accept = async (signal: AbortSignal) => {
    for (;;) {
      const { session, lost } = await line.connected(signal);
      try {
        return await session.acceptStream("nbd", AbortSignal.any([signal, lost]));
      } catch (error) {
        if (!line.recovers(error)) throw error;
      }
    }
  };
  migration.guard(relayAllToSocket(accept, {
    pathFor: async (stream) => served.paths[await readServer(stream)] ?? unknownServer(),
    forgive: (work) => line.unlessLost(work),
    signal: migration.signal,
  }));
}

/** The first byte of a stream. */
async function readServer(stream: WireStream): Promise<number> {
  const first = new Uint8Array(1);
  return await stream.read(first) === null ? unknownServer() : first[0]!;
}

function unknownServer(): never {
  throw new AgentError(
    "unknown_nbd_server",
    "The other agent names an NBD server that is not there",
  );
}

/** The source's end: where its QEMU connects to, and with which credentials. */
export async function reachNbd(
  reply: NonNullable<NbdReply>,
  options: { end: NbdEnd; exports: ExportNames; asked: Transport; signal: AbortSignal },
): Promise<{
  /** By the servers' numbers. */
  servers: NbdServer[];
  tlsCreds: string | null;
  /** To be removed when the mirrors have ended. */
  credentials: PskCredentials | null;
  /** QEMU's connections to them, in a tunnel or over the network. */
  connections: NbdConnections;
  /** Where QEMU's connections come in; to be closed when there will be none any more. */
  listeners: Disposable[];
}> {
  const { end, exports, asked, signal } = options;
  const count = Math.max(...exports.map(({ server }) => server + 1), 0);
  if (reply.transport === "tunnel") {
    const listeners: LocalListener[] = [];
    for (let server = 0; server < count; server++) {
      listeners.push(await openTunnel(server, end));
    }
    return {
      servers: listeners.map(({ path }) => ({ type: "unix", path })),
      tlsCreds: null,
      credentials: null,
      connections: joinConnections(listeners),
      listeners,
    };
  }
  const { ports, psk_key: key } = reply;
  if (asked !== "direct" && key === null) {
    throw new AgentError("plain_nbd_refused", "The receiver offers the disks unencrypted only", {
      kind: "refused",
      side: "source",
      hint: "use --nbd tunnel, or --insecure-nbd on both sides",
    });
  }
  if (count > ports.length) unknownServer();
  const { pid, qmp, folder, migration } = end;
  // QEMU's guest stands still while it connects: what cannot be reached is found out here.
  const hosts = await Promise.all(
    ports.map((port) => probeNbd({ host: reply.host, port }, signal)),
  );
  const servers = ports.map((port, at) => ({ type: "inet" as const, host: hosts[at]!, port }));
  const reached = {
    servers,
    connections: joinConnections(
      servers.map(({ host, port }) => tcpConnections({ pid, host, port })),
    ),
    listeners: [],
  };
  if (key === null) return { ...reached, tlsCreds: null, credentials: null };
  const credentials = new PskCredentials(qmp, folder);
  migration.undo.add("remove the NBD key", () => credentials.remove());
  const tlsCreds = await credentials.install({ endpoint: "client", key }, signal);
  return { ...reached, tlsCreds, credentials };
}

/** A socket for QEMU's connections to one server. */
async function openTunnel(
  server: number,
  { folder, line, migration }: NbdEnd,
): Promise<LocalListener> {
  const listener = await LocalListener.open(folder, `${server}-${SOCKET_NAME}`);
  const open = async (signal: AbortSignal) => {
    const stream = (await line.reached(signal)).session.openStream("nbd");
    await stream.write(Uint8Array.of(server));
    return stream;
  };
  const forgive = (work: Promise<void>) => line.unlessLost(work);
  migration.guard(listener.relayAll(open, { forgive, signal: migration.signal }));
  return listener;
}
