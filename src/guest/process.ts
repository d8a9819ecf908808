// The QEMU process behind a QMP socket: who it is and how it was started. Reads /proc only (proc(5),
// unix(7)); speaks no QMP and does not know what the arguments mean.

import { AgentError, quote } from "../base/errors.ts";
import { realPathOrNull } from "./image_files.ts";
import { qmpUnreachable } from "../qmp/client.ts";
import { findProcesses, openFiles } from "./proc.ts";

export interface QemuProcess {
  pid: number;
  /** The executable's path, as the kernel gives it. */
  binary: string;
  /** Arguments without argv[0], exact. */
  argv: string[];
  /** Absolute path of a file that the process names relatively, by what it has open. */
  resolvePath(path: string): string;
  /** Whether a relative name no longer leads to the file, because the process changed its folder. */
  hasLost(path: string): boolean;
}

/**
 * The process that listens on the unix socket `path`.
 * @throws AgentError (kind refused) `qmp_unreachable` when there is none, `qemu_process_unknown` when it
 *   cannot be told for certain
 */
export async function findSocketOwner(path: string): Promise<number> {
  const absolute = await realSocketPath(path);
  const inodes = await listeningInodes(absolute);
  const pids = inodes.size === 0 ? [] : await pidsWithSockets(inodes);
  if (pids.length === 1) return pids[0]!;
  if (pids.length === 0) await checkListener(path);
  throw new AgentError(
    "qemu_process_unknown",
    pids.length === 0
      ? `Cannot find the process that listens on ${quote(path)}`
      : `Several processes may be the one that listens on ${quote(path)}: ${pids.join(", ")}`,
    { kind: "refused", hint: "name it with --qemu-pid" },
  );
}

async function realSocketPath(path: string): Promise<string> {
  try {
    return await Deno.realPath(path);
  } catch (error) {
    throw qmpUnreachable(path, error);
  }
}

/** Whoever listens may do so in another network namespace, whose sockets are not to be seen here. */
async function checkListener(path: string): Promise<void> {
  try {
    (await Deno.connect({ transport: "unix", path })).close();
  } catch (error) {
    throw qmpUnreachable(path, error);
  }
}

/** What /proc says of a QEMU process. @throws AgentError `qemu_process_unknown` (kind refused) */
export async function readProcess(pid: number): Promise<QemuProcess> {
  try {
    const raw = await Deno.readFile(`/proc/${pid}/cmdline`);
    const parts = new TextDecoder().decode(raw).split("\0");
    if (parts.at(-1) === "") parts.pop();
    const binary = await Deno.readLink(`/proc/${pid}/exe`);
    const { program, argv } = skipLoader(binary, parts);
    const open = await openFiles(pid);
    const cwd = await Deno.readLink(`/proc/${pid}/cwd`);
    const findOpen = (file: string) => {
      const suffix = "/" + file.replace(/^(\.\/)+/, "");
      return open.find((target) => target.endsWith(suffix));
    };
    return {
      pid,
      binary: program,
      argv,
      // `-daemonize` changes to "/" after the files were opened: their descriptors know better.
      resolvePath: (file) => file.startsWith("/") ? file : findOpen(file) ?? `${cwd}/${file}`,
      hasLost: (file) => {
        const target = file.startsWith("/") ? undefined : findOpen(file);
        return target !== undefined && realPathOrNull(`${cwd}/${file}`) !== target;
      },
    };
  } catch (cause) {
    throw new AgentError(
      "qemu_process_unknown",
      `Cannot read process ${pid} of the source QEMU in /proc`,
      { kind: "refused", cause, hint: "run as root, or as the user that QEMU runs as" },
    );
  }
}

/** Inodes of the sockets that listen under a name that may be `absolute`. */
async function listeningInodes(absolute: string): Promise<Set<string>> {
  const LISTENING = "00010000"; // __SO_ACCEPTCON in the Flags column
  const exact = new Set<string>();
  const relative = new Set<string>();
  for (const line of (await Deno.readTextFile("/proc/net/unix")).split("\n").slice(1)) {
    const [, , , flags, , , inode, ...name] = line.trim().split(/\s+/);
    const path = name.join(" ");
    if (flags !== LISTENING || inode === undefined || path === "") continue;
    if (path === absolute || path.startsWith("/") && await samePath(path, absolute)) {
      exact.add(inode);
    } else if (absolute.endsWith("/" + path.replace(/^(\.\/)+/, ""))) relative.add(inode);
  }
  return exact.size > 0 ? exact : relative;
}

async function samePath(a: string, real: string): Promise<boolean> {
  if (a.split("/").at(-1) !== real.split("/").at(-1)) return false;
  try {
    return await Deno.realPath(a) === real;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

async function pidsWithSockets(inodes: ReadonlySet<string>): Promise<number[]> {
  const wanted = new Set([...inodes].map((inode) => `socket:[${inode}]`));
  return await findProcesses((target) => wanted.has(target));
}

/** QEMU may run through an explicit dynamic loader: `ld-linux... --library-path P qemu-system...`. */
export function skipLoader(exe: string, parts: string[]): { program: string; argv: string[] } {
  if (!/\/ld-[^/]*\.so[^/]*$/.test(exe)) return { program: exe, argv: parts.slice(1) };
  const WITH_VALUE = new Set([
    "--library-path",
    "--preload",
    "--audit",
    "--inhibit-rpath",
    "--argv0",
  ]);
  let at = 1;
  while (parts[at]?.startsWith("--")) at += WITH_VALUE.has(parts[at]!) ? 2 : 1;
  return { program: parts[at] ?? exe, argv: parts.slice(at + 1) };
}
