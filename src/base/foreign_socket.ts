// TCP sockets of another process, such as QEMU: found in /proc and borrowed, to do what their owner does
// not offer. Knows nothing of what is spoken on them.
// Linux: pidfd_getfd(2) (5.6), connect(2) (AF_UNSPEC), tcp(7), socket(7), proc(5).

// The same numbers on every architecture.
const SYS_PIDFD_OPEN = 434n;
const SYS_PIDFD_GETFD = 438n;
const SHUT_RDWR = 2;
const SOL_SOCKET = 1;
const SO_ACCEPTCONN = 30;
const INTERNET_FAMILIES = [2, 10]; // IPv4, IPv6
/** An address of the family AF_UNSPEC, which is 0. */
const NO_ADDRESS = new Uint8Array(16);

/** States of a TCP socket, as the kernel counts them. */
export const TCP_ESTABLISHED = 1;
const TCP_SYN_SENT = 2;

const LIBC = {
  syscall: { parameters: ["i64", "i64", "i64", "i64"], result: "i64" },
  setsockopt: { parameters: ["i32", "i32", "i32", "buffer", "u32"], result: "i32" },
  connect: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  shutdown: { parameters: ["i32", "i32"], result: "i32" },
  getsockname: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
  getsockopt: { parameters: ["i32", "i32", "i32", "buffer", "buffer"], result: "i32" },
  close: { parameters: ["i32"], result: "i32" },
} as const;

/** A socket in the network namespace of a process; addresses as the kernel shows them. */
export interface TcpSocket {
  /** Its name among all sockets, such as `socket:[4711]`. */
  id: string;
  localPort: number;
  remoteAddress: string;
  /** 0 for one that listens. */
  remotePort: number;
  state: number;
}

/** A socket that is borrowed from its owner; what is done shows there. */
export interface BorrowedSocket extends TcpSocket {
  setOption(level: number, name: number, value: number): boolean;
  /**
   * Ends the connection at once, whether it was there already or was still being made: its owner finds
   * it broken. What had been written and not been acknowledged is forgotten; after shutdown(2) or
   * close(2) the kernel would go on trying to deliver it.
   */
  abort(): boolean;
}

/** A socket that is bound to a TCP port of this host, borrowed from its owner. */
export interface ServerSocket {
  id: string;
  localPort: number;
  listens: boolean;
  /** See BorrowedSocket. */
  abort(): boolean;
  /** One that listens does so no more; whoever has not been accepted yet is turned away. */
  stopListening(): boolean;
}

/** The sockets that `pid` itself holds; none when it is gone or cannot be looked at. */
export async function listSockets(
  pid: number,
  fits: (socket: TcpSocket) => boolean,
): Promise<TcpSocket[]> {
  return (await findSockets(pid, fits)).map(({ socket }) => socket);
}

/**
 * Calls `use` with every socket of `pid` that fits. Gives true when there was one and every call gave
 * true; false also where nothing can be borrowed (a kernel before 5.6, somebody else's process, another
 * C library).
 */
export async function borrowSockets(pid: number, options: {
  fits: (socket: TcpSocket) => boolean;
  use: (socket: BorrowedSocket) => boolean;
}): Promise<boolean> {
  const found = await findSockets(pid, options.fits);
  using libc = found.length === 0 ? null : openLibc();
  using lender = libc && openLender(libc.symbols, pid);
  if (!libc || !lender) return false;
  const { setsockopt, shutdown } = libc.symbols;
  const results = found.map(({ socket, descriptor }) =>
    lender.lend(descriptor, (own) =>
      options.use({
        ...socket,
        setOption(level, name, value) {
          const bytes = new Int32Array([value]);
          return setsockopt(own, level, name, bytes, bytes.byteLength) === 0;
        },
        abort() {
          // A thread may wait in connect(2) for this one, and only shutdown(2) ends that.
          if (socket.state === TCP_SYN_SENT) return shutdown(own, SHUT_RDWR) === 0;
          return disconnect(libc.symbols, own);
        },
      })) ?? false
  );
  return results.every((result) => result);
}

/**
 * Calls `use` with every socket of `pid` that is bound to a TCP port, whatever became of its connection.
 * Reads no table of all connections, which may be long: for when a guest waits. Does nothing where nothing
 * can be borrowed (`borrowSockets`).
 */
export function borrowServerSockets(pid: number, use: (socket: ServerSocket) => void): void {
  using libc = openLibc();
  using lender = libc && openLender(libc.symbols, pid);
  if (!libc || !lender) return;
  const { symbols } = libc;
  for (const { target: id, descriptor } of readDescriptors(pid)) {
    if (!id.startsWith("socket:")) continue;
    lender.lend(descriptor, (own) => {
      const localPort = boundPort(symbols, own);
      if (localPort === null) return;
      use({
        id,
        localPort,
        listens: isListening(symbols, own),
        abort: () => disconnect(symbols, own),
        stopListening: () => symbols.shutdown(own, SHUT_RDWR) === 0,
      });
    });
  }
}

/** Which of these sockets, by their ids, `pid` still holds: also those that have no connection any more. */
export function heldSockets(pid: number, ids: ReadonlySet<string>): string[] {
  return [...readDescriptors(pid)].map(({ target }) => target).filter((id) => ids.has(id));
}

/** `address` (IPv4 or IPv6, as numbers) in all the forms in which the kernel shows it. */
export function kernelAddresses(address: string): string[] {
  const toHex = (bytes: number[]) =>
    [...new Uint32Array(Uint8Array.from(bytes).buffer)]
      .map((word) => word.toString(16).padStart(8, "0").toUpperCase()).join("");
  if (!address.includes(":")) {
    const bytes = address.split(".").map(Number);
    return [toHex(bytes), toHex([...new Array(10).fill(0), 0xff, 0xff, ...bytes])];
  }
  const url = new URL(`http://[${address.replace(/%.*/, "")}]`); // a URL has it in short, without dots
  const [head = "", tail] = url.hostname.slice(1, -1).split("::");
  const groups = (text: string) =>
    text === "" ? [] : text.split(":").map((part) => parseInt(part, 16));
  const before = groups(head);
  const after = tail === undefined ? [] : groups(tail);
  const between = new Array(8 - before.length - after.length).fill(0);
  return [toHex([...before, ...between, ...after].flatMap((group) => [group >> 8, group & 255]))];
}

async function findSockets(
  pid: number,
  fits: (socket: TcpSocket) => boolean,
): Promise<{ socket: TcpSocket; descriptor: number }[]> {
  const sockets = new Map<string, TcpSocket>();
  for (const table of ["tcp", "tcp6"]) {
    for (const row of await readRows(`/proc/${pid}/net/${table}`)) {
      const [, local = "", remote = "", state = "", , , , , , inode] = row.trim().split(/\s+/);
      const [remoteAddress = "", remotePort = ""] = remote.split(":");
      const socket: TcpSocket = {
        id: `socket:[${inode}]`,
        localPort: parseInt(local.split(":")[1] ?? "", 16),
        remoteAddress,
        remotePort: parseInt(remotePort, 16),
        state: parseInt(state, 16),
      };
      if (fits(socket)) sockets.set(socket.id, socket);
    }
  }
  if (sockets.size === 0) return [];
  return [...readDescriptors(pid)].flatMap(({ target, descriptor }) => {
    const socket = sockets.get(target);
    return socket ? [{ socket, descriptor }] : [];
  });
}

/** What a process has open; nothing when it is gone or cannot be looked at. */
function* readDescriptors(pid: number): Generator<{ target: string; descriptor: number }> {
  const folder = `/proc/${pid}/fd`;
  for (const name of orWhenMissing([], () => [...Deno.readDirSync(folder)].map((e) => e.name))) {
    // One may have been closed meanwhile.
    const target = orWhenMissing("", () => Deno.readLinkSync(`${folder}/${name}`));
    yield { target, descriptor: Number(name) };
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

function orWhenMissing<T>(missing: T, read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (isMissing(error)) return missing;
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
    return null; // another C library: the caller is told that nothing was done
  }
}

type Libc = NonNullable<ReturnType<typeof openLibc>>["symbols"];

/** Lends descriptors of `pid`, each for as long as `use` takes; null when that is not possible. */
function openLender({ syscall, close }: Libc, pid: number) {
  const process = Number(syscall(SYS_PIDFD_OPEN, BigInt(pid), 0n, 0n));
  if (process < 0) return null;
  return {
    lend<T>(descriptor: number, use: (own: number) => T): T | null {
      const own = Number(syscall(SYS_PIDFD_GETFD, BigInt(process), BigInt(descriptor), 0n));
      if (own < 0) return null;
      try {
        return use(own);
      } finally {
        close(own);
      }
    },
    [Symbol.dispose]: () => close(process),
  };
}

/** See BorrowedSocket, `abort`. */
function disconnect({ connect }: Libc, own: number): boolean {
  return connect(own, NO_ADDRESS, NO_ADDRESS.byteLength) === 0;
}

/** The port of this host; null for a socket of another kind. */
function boundPort({ getsockname }: Libc, own: number): number | null {
  const address = new Uint8Array(128);
  const length = new Uint32Array([address.byteLength]);
  if (getsockname(own, address, length) !== 0) return null;
  const [family] = new Uint16Array(address.buffer, 0, 1);
  return INTERNET_FAMILIES.includes(family!) ? address[2]! * 256 + address[3]! : null;
}

function isListening({ getsockopt }: Libc, own: number): boolean {
  const value = new Uint32Array(1);
  const length = new Uint32Array([value.byteLength]);
  return getsockopt(own, SOL_SOCKET, SO_ACCEPTCONN, value, length) === 0 && value[0] === 1;
}
