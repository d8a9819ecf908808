// A private folder for a socket between this program and one QEMU: only that QEMU's user gets in.

import { quote } from "../base/errors.ts";

export interface SocketFolder extends AsyncDisposable {
  /** A path in it for a socket. */
  socketPath: string;
  /** The user and group that QEMU runs as. */
  owner: { uid: number; gid: number };
}

/** Makes the folder; dispose to remove it with all that is in it. */
export async function makeSocketFolder(options: { pid: number }): Promise<SocketFolder> {
  const owner = await ownerOf(options.pid);
  const folder = await Deno.makeTempDir({ prefix: "migrate-agent-" }); // mode 0700
  const remove = () => Deno.remove(folder, { recursive: true });
  try {
    if (owner.uid !== Deno.uid()) await Deno.chown(folder, owner.uid, owner.gid);
  } catch (error) {
    await remove();
    throw error;
  }
  return { socketPath: `${folder}/ram.sock`, owner, [Symbol.asyncDispose]: remove };
}

/** Effective user and group of a process (proc(5), `status`). */
async function ownerOf(pid: number): Promise<{ uid: number; gid: number }> {
  const status = await Deno.readTextFile(`/proc/${pid}/status`);
  const field = (name: string) => {
    const ids = new RegExp(`^${name}:\\s+\\d+\\s+(\\d+)`, "m").exec(status);
    if (!ids) throw new Error(`no ${quote(name)} in /proc/${pid}/status`);
    return Number(ids[1]);
  };
  return { uid: field("Uid"), gid: field("Gid") };
}
