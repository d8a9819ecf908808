// A private folder for what only this program and one QEMU may see: sockets, keys.

import { quote } from "../base/errors.ts";

export interface PrivateFolder extends AsyncDisposable {
  readonly path: string;
  /** The user and group that QEMU runs as. */
  readonly owner: { readonly uid: number; readonly gid: number };
}

/** Makes the folder (mode 0700, owned by QEMU's user); dispose to remove it with all that is in it. */
export async function makePrivateFolder(options: { pid: number }): Promise<PrivateFolder> {
  const owner = await ownerOf(options.pid);
  const path = await Deno.makeTempDir({ prefix: "migrate-agent-" });
  const remove = async () => {
    try {
      await Deno.remove(path, { recursive: true });
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  };
  try {
    await giveTo(path, owner);
  } catch (error) {
    await remove();
    throw error;
  }
  return { path, owner, [Symbol.asyncDispose]: remove };
}

/** Makes a file or socket in a private folder QEMU's own. */
export async function giveTo(path: string, owner: PrivateFolder["owner"]): Promise<void> {
  if (owner.uid !== Deno.uid()) await Deno.chown(path, owner.uid, owner.gid);
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
