// How the disks travel: straight from QEMU to QEMU, encrypted by the two of them with a key made for
// this migration; or through streams of the agents' own connection ("tunnel").

import { AgentError } from "../src/base/errors.ts";
import type { ReplyBody, RequestBody } from "../src/control/messages.ts";
import type { Exports } from "../src/guest/exports.ts";
import type { QemuFeatures } from "../src/guest/features.ts";
import type { NbdServer } from "../src/guest/mirror.ts";
import { setNoDelay } from "../src/base/no_delay.ts";
import { makePskKey, PskCredentials } from "../src/guest/nbd_keys.ts";
import type { PrivateFolder } from "../src/guest/private_folder.ts";
import type { Migration } from "../src/migration/migration.ts";
import type { QmpClient } from "../src/qmp/client.ts";
import type { Line } from "./line.ts";
import { type NbdConnections, probeNbd, tcpConnections } from "../src/guest/nbd_connections.ts";
import { LocalListener, relayAllToSocket } from "./local_relay.ts";

type Transport = RequestBody<"prepare">["nbd"];
type NbdReply = ReplyBody<"prepare">["nbd"];

/** Where the NBD server listens; `host` is what the sender is told. Null: only in a tunnel. */
export type NbdListen = { host: string; ports: { first: number; last: number } | null } | null;

/** What serves the disks, as the sender is told it. */
export interface ServedNbd {
  nbd: NbdReply;
  exports: ReplyBody<"prepare">["exports"];
  /** The server's socket behind a tunnel. */
  path: string | null;
  /** To be removed when the server has stopped and the guest goes on here. */
  credentials: PskCredentials | null;
}

const SOCKET_NAME = "nbd.sock";

/** One side's QEMU and what the transport needs besides. */
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

/** The destination's end: starts the exports; what the sender is told. */
export async function serveNbd(exports: Exports, options: {
  end: NbdEnd;
  asked: Transport;
  /** Whether disks may cross the network readable for everybody on it. */
  allowPlain: boolean;
  features: QemuFeatures;
  listen: NbdListen;
  /** A server that the sender knows already, and that this one takes the place of. */
  before: ServedNbd | null;
  signal: AbortSignal;
}): Promise<ServedNbd> {
  const { end, asked, features, listen, before, signal } = options;
  const { qmp, pid, folder, line, migration } = end;
  if (asked === "direct" && !options.allowPlain) {
    throw new AgentError("plain_nbd_refused", "The sender wants to send the disks unencrypted", {
      kind: "refused",
      side: "destination",
      hint: "give --insecure-nbd to both sides, or to none",
    });
  }
  if (asked === "tunnel" || listen === null || (asked === "encrypted" && !features.psk)) {
    const path = `${folder.path}/${SOCKET_NAME}`;
    const { exports: names } = await exports.start({
      listen: { type: "unix", path },
      tlsCreds: null,
      signal,
    });
    const served = { nbd: { transport: "tunnel" as const }, exports: names, path };
    if (before) return Object.assign(before, served); // its relay goes on, to this server
    const tunnel: ServedNbd = { ...served, credentials: null };
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
      path: () => tunnel.path!,
      forgive: (work) => line.unlessLost(work),
      signal: migration.signal,
    }));
    return tunnel;
  }
  const known = before?.nbd?.transport === "direct" ? before.nbd : null;
  const key = asked === "encrypted" ? known?.psk_key ?? makePskKey() : null;
  const credentials = key === null ? null : new PskCredentials(qmp, folder);
  const tlsCreds = credentials === null
    ? null
    : await credentials.install({ endpoint: "server", key: key! }, signal);
  const ports = known ? { first: known.port, last: known.port } : listen.ports;
  const started = await exports.start({
    listen: { type: "inet", host: listen.host, ports },
    tlsCreds,
    signal,
  });
  await setNoDelay({ pid, localPort: started.port!, remotePort: null }); // false: only slower
  return {
    nbd: { transport: "direct", host: listen.host, port: started.port!, psk_key: key },
    exports: started.exports,
    path: null,
    credentials,
  };
}

/** The source's end: where its QEMU connects to, and with which credentials. */
export async function reachNbd(
  reply: NonNullable<NbdReply>,
  options: { end: NbdEnd; asked: Transport; signal: AbortSignal },
): Promise<{
  nbd: NbdServer;
  tlsCreds: string | null;
  /** To be removed when the mirrors have ended. */
  credentials: PskCredentials | null;
  /** QEMU's connections to it, in a tunnel or over the network. */
  connections: NbdConnections;
  /** Where QEMU's connections come in; to be closed when there will be none any more. */
  listener: Disposable | null;
}> {
  const { end: { qmp, folder, line, migration }, asked, signal } = options;
  if (reply.transport === "tunnel") {
    const listener = await LocalListener.open(folder, SOCKET_NAME);
    const open = async (signal: AbortSignal) =>
      (await line.connected(signal)).session.openStream("nbd");
    const forgive = (work: Promise<void>) => line.unlessLost(work);
    migration.guard(listener.relayAll(open, { forgive, signal: migration.signal }));
    return {
      nbd: { type: "unix", path: listener.path },
      tlsCreds: null,
      credentials: null,
      connections: listener,
      listener,
    };
  }
  const { port, psk_key: key } = reply;
  if (asked !== "direct" && key === null) {
    throw new AgentError("plain_nbd_refused", "The receiver offers the disks unencrypted only", {
      kind: "refused",
      side: "source",
      hint: "use --nbd tunnel, or --insecure-nbd on both sides",
    });
  }
  // QEMU's guest stands still while it connects: what cannot be reached is found out here.
  const host = await probeNbd(reply, signal);
  const server = {
    nbd: { type: "inet" as const, host, port },
    connections: tcpConnections({ pid: options.end.pid, host, port }),
    listener: null,
  };
  if (key === null) return { ...server, tlsCreds: null, credentials: null };
  const credentials = new PskCredentials(qmp, folder);
  migration.undo.add("remove the NBD key", () => credentials.remove());
  const tlsCreds = await credentials.install({ endpoint: "client", key }, signal);
  return { ...server, tlsCreds, credentials };
}
