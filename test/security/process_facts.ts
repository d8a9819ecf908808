// What /proc says about a process: its memory, its open files, its arguments, its environment.
// Specification: proc(5).

export interface ProcessStatus {
  residentBytes: number;
  openFiles: number;
}

export async function readProcessStatus(pid: number): Promise<ProcessStatus> {
  const status = await Deno.readTextFile(`/proc/${pid}/status`);
  const kib = Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)![1]);
  return { residentBytes: kib * 1024, openFiles: (await readNames(`/proc/${pid}/fd`)).length };
}

/** Everything that others may see of a process and of its children: arguments and environment. */
export async function readPublicFace(pid: number): Promise<string> {
  const texts: string[] = [];
  for (const one of [pid, ...await findDescendants(pid)]) {
    for (const name of ["cmdline", "environ"]) {
      texts.push(await readIfAlive(`/proc/${one}/${name}`));
    }
  }
  return texts.join("\n");
}

/** The process ids of all children, their children, and so on. */
export async function findDescendants(pid: number): Promise<number[]> {
  const children = new Map<number, number[]>();
  for (const name of await readNames("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const parent = Number(/\) \S (\d+) /.exec(await readIfAlive(`/proc/${name}/stat`))?.[1] ?? 0);
    children.set(parent, [...children.get(parent) ?? [], Number(name)]);
  }
  const found: number[] = [];
  for (const left = [pid]; left.length > 0;) {
    const next = children.get(left.pop()!) ?? [];
    found.push(...next);
    left.push(...next);
  }
  return found;
}

async function readNames(folder: string): Promise<string[]> {
  return (await Array.fromAsync(Deno.readDir(folder))).map(({ name }) => name);
}

async function readIfAlive(path: string): Promise<string> {
  try {
    return await Deno.readTextFile(path);
  } catch (error) {
    const isGone = error instanceof Deno.errors.NotFound ||
      (error instanceof Error && error.message.includes("os error 3)"));
    if (isGone) return "";
    throw error;
  }
}

/** Every path under `folder`, in order. */
export async function listTree(folder: string): Promise<string[]> {
  const paths: string[] = [];
  for await (const { name, isDirectory } of Deno.readDir(folder)) {
    paths.push(name);
    if (isDirectory) {
      paths.push(...(await listTree(`${folder}/${name}`)).map((path) => `${name}/${path}`));
    }
  }
  return paths.sort();
}

/** The permissions of everything under `folder`, in octal digits, by path. */
export async function listModes(folder: string): Promise<Record<string, string>> {
  const modes: Record<string, string> = {};
  for (const path of await listTree(folder)) {
    modes[path] = ((await Deno.lstat(`${folder}/${path}`)).mode! & 0o777).toString(8);
  }
  return modes;
}

/** Processes of receivers that were given this run folder. */
export async function findAgents(runDir: string): Promise<number[]> {
  const found: number[] = [];
  for (const name of await readNames("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const args = (await readIfAlive(`/proc/${name}/cmdline`)).split("\0");
    if (args.includes("receive") && args.includes(runDir)) found.push(Number(name));
  }
  return found;
}

/** The paths of the files that a process has open. */
export async function listOpenFiles(pid: number): Promise<string[]> {
  const links = (await readNames(`/proc/${pid}/fd`)).map((fd) =>
    Deno.readLink(`/proc/${pid}/fd/${fd}`)
  );
  const paths = await Promise.allSettled(links); // one may have been closed meanwhile
  return paths.flatMap((path) => path.status === "fulfilled" ? path.value : []);
}
