// The clients of the NBD server in a QEMU, as seen from outside QEMU: before the server is stopped nobody
// may be in the middle of a negotiation with it. `nbd-server-stop` waits for every connection, and while
// it does, QEMU's main loop hears nothing from those that negotiate: with QEMU 7.2 as Debian 12 has it
// (with the fix of CVE-2024-7409) one that connects and says nothing, a port scanner or what a lost link
// has left, keeps it there for good. QEMU 10.0 does not have that. Knows nothing of QMP.

import { delay } from "../base/deadline.ts";
import { borrowServerSockets, heldSockets, type ServerSocket } from "../base/foreign_socket.ts";

const POLL_MS = 2;

/**
 * Lets nobody in any more at these TCP ports of process `pid` and ends every connection there; what they
 * had sent and the server not received is lost. Resolves when the process has let go of them, which a
 * QEMU does when it has done what they asked for. Where sockets cannot be borrowed nothing is done.
 */
export async function evictClients(
  { pid, ports }: { pid: number; ports: readonly number[] },
  signal: AbortSignal,
): Promise<void> {
  const eachHere = (use: (socket: ServerSocket) => void) =>
    borrowServerSockets(pid, (socket) => ports.includes(socket.localPort) && use(socket));
  const doors = new Set<string>();
  eachHere((socket) => socket.listens && doors.add(socket.id) && socket.stopListening());
  const evicted = new Set<string>(); // nobody joins them any more
  eachHere((socket) => doors.has(socket.id) || (evicted.add(socket.id) && socket.abort()));
  while (heldSockets(pid, evicted).length > 0) await delay(POLL_MS, signal);
}
