// TCP_NODELAY where Deno, or the program that owns the socket, does not offer it: a small message then
// waits for the acknowledgement of the one before, which the other side's kernel holds back for
// 40 ms. Seen with the NBD server of QEMU before 8.0 (mirrors four times slower) and on the server's
// side of TLS in Deno 2.7; both lengthened the guest's pause.
// Linux: pidfd_getfd(2), tcp(7), proc(5).

// The same numbers on every architecture.
const SYS_PIDFD_OPEN = 434n;
const SYS_PIDFD_GETFD = 438n;
const IPPROTO_TCP = 6;
const TCP_NODELAY = 1;

const LIBC = {
  syscall: { parameters: ["i64", "i64", "i64", "i64"], result: "i64" },
  setsockopt: { parameters: ["i32", "i32", "i32", "buffer", "u32"], result: "i32" },
  close: { parameters: ["i32"], result: "i32" },
} as const;

export interface TcpSocket {
  /** The process that has it. */
  pid: number;
  localPort: number;
  /** Null: the socket that listens; what it accepts from then on inherits the option. */
  remotePort: number | null;
}

/**
 * Sets the option on the sockets that fit. Gives false when that cannot be done (no such socket, a
 * kernel before 5.6, somebody else's process, no glibc): everything works without, only slower.
 */
export async function setNoDelay(socket: TcpSocket): Promise<boolean> {
  const { pid } = socket;
  const fitting = await findSockets(socket);
  const descriptors = fitting.size === 0 ? [] : await findDescriptors(pid, fitting);
  using libc = descriptors.length === 0 ? null : openLibc();
  if (libc === null) return false;
  const { syscall, setsockopt, close } = libc.symbols;
  const process = Number(syscall(SYS_PIDFD_OPEN, BigInt(pid), 0n, 0n));
  if (process < 0) return false;
  const done = descriptors.every((fd) => {
    const own = Number(syscall(SYS_PIDFD_GETFD, BigInt(process), BigInt(fd), 0n));
    if (own < 0) return false;
    const on = new Int32Array([1]);
    const result = setsockopt(own, IPPROTO_TCP, TCP_NODELAY, on, on.byteLength);
    close(own);
    return result === 0;
  });
  close(process);
  return done;
}

/** As /proc/PID/fd shows them. */
async function findSockets({ pid, localPort, remotePort }: TcpSocket): Promise<Set<string>> {
  const sockets = new Set<string>();
  for (const table of ["tcp", "tcp6"]) {
    for (const row of await readRows(`/proc/${pid}/net/${table}`)) {
      const [, local = "", remote = "", , , , , , , inode] = row.trim().split(/\s+/);
      // A socket that listens has the remote port 0.
      const fits = portOf(local) === localPort && portOf(remote) === (remotePort ?? 0);
      if (fits) sockets.add(`socket:[${inode}]`);
    }
  }
  return sockets;
}

function portOf(address: string): number {
  return parseInt(address.slice(address.lastIndexOf(":") + 1), 16);
}

async function findDescriptors(pid: number, sockets: ReadonlySet<string>): Promise<number[]> {
  const found: number[] = [];
  try {
    for await (const { name } of Deno.readDir(`/proc/${pid}/fd`)) {
      const target = await linkOrEmpty(`/proc/${pid}/fd/${name}`);
      if (sockets.has(target)) found.push(Number(name));
    }
  } catch (error) {
    if (!isMissing(error)) throw error;
  }
  return found;
}

async function linkOrEmpty(path: string): Promise<string> {
  try {
    return await Deno.readLink(path);
  } catch (error) {
    if (isMissing(error)) return ""; // closed meanwhile
    throw error;
  }
}

/** Without the title; nothing when the process is gone or the kernel has no such table (no IPv6). */
async function readRows(path: string): Promise<string[]> {
  try {
    return (await Deno.readTextFile(path)).trimEnd().split("\n").slice(1);
  } catch (error) {
    if (isMissing(error)) return [];
    throw error;
  }
}

function isMissing(error: unknown): boolean {
  return error instanceof Deno.errors.NotFound || error instanceof Deno.errors.PermissionDenied;
}

function openLibc() {
  try {
    const library = Deno.dlopen("libc.so.6", LIBC);
    return { symbols: library.symbols, [Symbol.dispose]: () => library.close() };
  } catch {
    return null; // another C library: nothing but the speed depends on it
  }
}
