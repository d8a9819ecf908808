// TCP_NODELAY where Deno, or the program that owns the socket, does not offer it: a small message then
// waits for the acknowledgement of the one before, which the other side's kernel holds back for
// 40 ms. Seen with the NBD server of QEMU before 8.0 (mirrors four times slower) and on the server's
// side of TLS in Deno 2.7; both lengthened the guest's pause.
// Linux: tcp(7).

import { borrowSockets } from "./foreign_socket.ts";

// The same numbers on every architecture.
const IPPROTO_TCP = 6;
const TCP_NODELAY = 1;

export interface TcpPorts {
  /** The process that has the socket. */
  pid: number;
  localPort: number;
  /** Null: the socket that listens; what it accepts from then on inherits the option. */
  remotePort: number | null;
}

/**
 * Sets the option on the sockets that fit. Gives false when that cannot be done (no such socket, a
 * kernel before 5.6, somebody else's process, no glibc): everything works without, only slower.
 */
export function setNoDelay({ pid, localPort, remotePort }: TcpPorts): Promise<boolean> {
  return borrowSockets(pid, {
    fits: (socket) => socket.localPort === localPort && socket.remotePort === (remotePort ?? 0),
    use: (socket) => socket.setOption(IPPROTO_TCP, TCP_NODELAY, 1),
  });
}
