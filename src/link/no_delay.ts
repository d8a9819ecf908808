// TCP_NODELAY for a TLS connection that was accepted. Deno 2.7 offers it for plain connections only,
// and without it the kernel keeps a small message back until the peer has acknowledged the one before
// (Nagle): 40 ms in the middle of the guest's pause, as measured.
// The descriptor is found by its addresses in /proc (proc(5), tcp in /proc/net).

const IPPROTO_TCP = 6;
const TCP_NODELAY = 1;

/** Switches it on. Gives false where that is not possible: the connection works all the same. */
export async function setNoDelay(conn: Deno.TlsConn): Promise<boolean> {
  const local = conn.localAddr as Deno.NetAddr;
  const remote = conn.remoteAddr as Deno.NetAddr;
  const inode = await findInode(local.port, remote.port);
  const fd = inode === null ? null : await findDescriptor(inode);
  if (fd === null) return false;
  using libc = openLibc();
  if (libc === null) return false;
  return libc.symbols.setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, new Int32Array([1]), 4) === 0;
}

/** The ports of both ends are enough: of all sockets with them only ours is in our own descriptors. */
async function findInode(localPort: number, remotePort: number): Promise<RegExp | null> {
  const hex = (port: number) => port.toString(16).toUpperCase().padStart(4, "0");
  const form = new RegExp(`:${hex(localPort)} [0-9A-F]+:${hex(remotePort)} 01 `);
  const inodes: string[] = [];
  for (const table of ["/proc/self/net/tcp", "/proc/self/net/tcp6"]) {
    for (const line of (await readOrEmpty(table)).split("\n")) {
      const inode = form.test(line) ? line.trim().split(/\s+/)[9] : undefined;
      if (inode !== undefined) inodes.push(inode);
    }
  }
  return inodes.length === 0 ? null : new RegExp(`^socket:\\[(${inodes.join("|")})\\]$`);
}

async function findDescriptor(inode: RegExp): Promise<number | null> {
  for await (const { name } of Deno.readDir("/proc/self/fd")) {
    try {
      if (inode.test(await Deno.readLink(`/proc/self/fd/${name}`))) return Number(name);
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error; // closed meanwhile
    }
  }
  return null;
}

async function readOrEmpty(path: string): Promise<string> {
  try {
    return await Deno.readTextFile(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return ""; // a kernel without IPv6
    throw error;
  }
}

function openLibc() {
  try {
    const library = Deno.dlopen("libc.so.6", {
      setsockopt: { parameters: ["i32", "i32", "i32", "buffer", "u32"], result: "i32" },
    });
    return { symbols: library.symbols, [Symbol.dispose]: () => library.close() };
  } catch {
    return null; // another C library: nothing but the speed depends on it
  }
}
