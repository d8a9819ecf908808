// The connections that a QEMU has to an NBD server, as seen from outside QEMU: which there are, and
// their end by force. QEMU itself can only end them for good (`yank`), and while it makes one its main
// loop, and with it the guest, waits: seen with 7.2 and 10.0, until the network gives up, which is two
// minutes where packets are dropped.

import { abortable, delay } from "../base/deadline.ts";
import { AgentError, describeError, quote } from "../base/errors.ts";
import {
  borrowSockets,
  kernelAddresses,
  listSockets,
  TCP_ESTABLISHED,
  type TcpSocket,
} from "../base/foreign_socket.ts";

/**
 * A client's leave before it has begun: its flags (fixed newstyle) and NBD_OPT_ABORT, without data. A server
 * that a client leaves without a word puts an error into its log.
 * Specification: NBD protocol, "Option haggling".
 */
const GOODBYE = Uint8Array.of(
  ...[0, 0, 0, 1],
  ...new TextEncoder().encode("IHAVEOPT"),
  ...[0, 0, 0, 2, 0, 0, 0, 0],
);

/** What a probe of the server may take: the guest runs meanwhile, so there is no hurry. */
const PROBE_TIMEOUT_MS = 5000;

/**
 * What QEMU may take to connect to one export: its main loop waits for that, and so does the guest. With
 * 7.2 and 10.0 that was as long as nothing came back, up to TCP's two minutes.
 */
const CONNECT_TIMEOUT_MS = 1500;
const RETRY_MS = 100;
const SEVER_TRIES = 10;
const SEVER_RETRY_MS = 10;

export interface NbdConnections {
  /** One name for each connection that is up; a name is never used again. */
  list(): Promise<Set<string>>;
  /**
   * Ends all of them at once, those included that are being made. What QEMU had written to them and
   * the server not received must never arrive: once the mirrors had gone on over new connections, it
   * would overwrite newer data (seen with QEMU 7.2 and 10.0 after a shutdown(2) of the sockets: their
   * last writes came when the link was back).
   */
  sever(): Promise<void>;
}

/** Those of the process `pid` over TCP; `host` in numbers. */
export function tcpConnections(
  { pid, host, port }: { pid: number; host: string; port: number },
): NbdConnections {
  const addresses = kernelAddresses(host);
  const fits = (socket: TcpSocket) =>
    socket.remotePort === port && addresses.includes(socket.remoteAddress);
  return {
    async list() {
      const up = await listSockets(pid, (s) => fits(s) && s.state === TCP_ESTABLISHED);
      return new Set(up.map(({ id }) => id));
    },
    async sever() {
      for (let left = SEVER_TRIES; left > 0; left--) {
        if (await borrowSockets(pid, { fits, use: (socket) => socket.abort() })) return;
        if ((await listSockets(pid, fits)).length === 0) return;
        await delay(SEVER_RETRY_MS); // QEMU closed or opened one at this very moment
      }
      throw new AgentError(
        "cannot_sever",
        `Cannot end the connections of process ${pid} to the NBD server at ${quote(host)}, ` +
          `port ${port}: its sockets cannot be borrowed`,
        { side: "source", hint: "Linux 5.6 or newer and the rights of QEMU's user are needed" },
      );
    },
  };
}

/** All of them, as if they were one server's. */
export function joinConnections(parts: readonly NbdConnections[]): NbdConnections {
  return {
    async list() {
      const lists = await Promise.all(parts.map((part) => part.list()));
      return new Set(lists.flatMap((names, at) => [...names].map((name) => `${at} ${name}`)));
    },
    async sever() {
      await Promise.all(parts.map((part) => part.sever()));
    },
  };
}

/**
 * Connects to the server and leaves again, from this process, before QEMU comes: an address that cannot be
 * reached must cost the guest nothing. Gives the address in numbers, which QEMU is to be told then.
 * @throws AgentError `nbd_unreachable`; safe to cancel
 */
export async function probeNbd(
  { host, port }: { host: string; port: number },
  signal: AbortSignal,
): Promise<string> {
  const limit = AbortSignal.timeout(PROBE_TIMEOUT_MS);
  const both = AbortSignal.any([signal, limit]);
  const attempt = new AbortController(); // the signal given to Deno.connect must not outlive it
  const connecting = Deno.connect({ hostname: host, port, signal: attempt.signal });
  const unreachable = (error: unknown) => {
    signal.throwIfAborted();
    const why = limit.aborted
      ? `no answer within ${PROBE_TIMEOUT_MS / 1000} seconds`
      : describeError(error);
    return nbdUnreachable(`at ${quote(host)}, port ${port}: ${why}`, error);
  };
  try {
    await abortable(connecting, both);
  } catch (error) {
    connecting.then((late) => late.close(), () => {});
    attempt.abort();
    throw unreachable(error);
  }
  using conn = await connecting;
  try {
    await abortable(leave(conn), both);
  } catch (error) {
    if (both.aborted) throw unreachable(error); // else it was there, however it takes its leave
  }
  return conn.remoteAddr.hostname;
}

/** Until the server has closed the connection, whatever it says. */
async function leave(conn: Deno.Conn): Promise<void> {
  for (let left = GOODBYE; left.length > 0;) left = left.subarray(await conn.write(left));
  const ignored = new Uint8Array(64);
  while (await conn.read(ignored) !== null);
}

/**
 * Waits for `adding`, QEMU's `blockdev-add` of a node for an export. One that does not get through in
 * time, or until `signal` aborts, is ended, for which `connections` are needed; `yank` knows nothing of
 * it yet.
 * @throws AgentError `nbd_unreachable`; the signal's reason; what QEMU says
 */
export async function waitConnected(adding: Promise<void>, options: {
  /** Of which disk it is, for the message. */
  what: string;
  connections: NbdConnections | undefined;
  /** Default: what a guest may stand still. */
  timeoutMs?: number | undefined;
  signal: AbortSignal;
}): Promise<void> {
  const { what, connections, timeoutMs = CONNECT_TIMEOUT_MS, signal } = options;
  const ended = adding.then(() => null, (error: Error) => error);
  const wait = (until: AbortSignal) => abortable(ended, until).catch(() => undefined);
  let error = await wait(AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]));
  const late = error === undefined;
  while (error === undefined) {
    await connections?.sever();
    error = await wait(AbortSignal.timeout(RETRY_MS));
  }
  if (error === null && !late) return;
  if (!late) throw error;
  signal.throwIfAborted();
  // QEMU may just have got through: that connection was ended all the same.
  throw nbdUnreachable(`${what} within ${timeoutMs / 1000} seconds`, error);
}

function nbdUnreachable(detail: string, cause?: unknown): AgentError {
  return new AgentError(
    "nbd_unreachable",
    `Cannot connect to the destination's NBD server ${detail}`,
    {
      kind: "link",
      side: "source",
      cause,
      hint: "let the port through (--nbd-ports on the destination chooses it), or use --nbd tunnel",
    },
  );
}
