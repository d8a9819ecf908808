// The folder that a guest has at the destination for its QMP socket, its process id and the sockets
// of its devices. One per guest name under the run folder; refused while a guest lives in it.

import { AgentError, describeError, quote } from "../base/errors.ts";
import { statOrNull } from "./image_files.ts";
import { isAlive } from "./proc.ts";

export interface GuestFolder {
  path: string;
  qmpPath: string;
  pidFile: string;
  logFile: string;
}

const PID_FILE = "qemu.pid";
const LOG_FILE = "qemu.log";

/** Longest path that fits into a unix socket's address (unix(7)). */
const MAX_PATH_BYTES = 107;

/** Where the guest of that name would live; nothing is made. `qmpPath` null means the default. */
export function guestFolder(
  name: string,
  options: { runDir: string; qmpPath: string | null },
): GuestFolder {
  const safe = name.replace(/[^A-Za-z0-9._-]/g, "_").replace(/^\./, "_");
  const path = `${options.runDir}/${safe}`;
  const folder = {
    path,
    qmpPath: options.qmpPath ?? `${path}/qmp.sock`,
    pidFile: `${path}/${PID_FILE}`,
    logFile: `${path}/${LOG_FILE}`,
  };
  if (new TextEncoder().encode(folder.qmpPath).length > MAX_PATH_BYTES) {
    throw new AgentError(
      "socket_path_too_long",
      `The socket path ${quote(folder.qmpPath)} is longer than ${MAX_PATH_BYTES} bytes`,
      { kind: "refused", side: "destination", hint: "use a shorter --run-dir or --qmp" },
    );
  }
  return folder;
}

/** @throws AgentError `guest_exists` (kind refused) when a guest of that name lives here */
export async function refuseLivingGuest(folder: GuestFolder, name: string): Promise<void> {
  const there = await statOrNull(folder.path);
  if (there && !there.isDirectory) {
    throw new AgentError("guest_folder_taken", `${quote(folder.path)} is there and is no folder`, {
      kind: "refused",
      side: "destination",
      hint: "remove it, or use another --run-dir",
    });
  }
  const pid = await readPidFile(folder.pidFile);
  if (pid === null || !await isAlive(pid)) return;
  throw new AgentError(
    "guest_exists",
    `A guest named ${quote(name)} already runs here (process ${pid}, ${quote(folder.path)})`,
    { kind: "refused", side: "destination", hint: "end it first, or use another --run-dir" },
  );
}

/** Makes the folder, readable by its owner only; what a dead guest left in it is removed. */
export async function makeGuestFolder(folder: GuestFolder): Promise<void> {
  await removeGuestFolder(folder);
  try {
    await Deno.mkdir(folder.path, { recursive: true, mode: 0o700 });
  } catch (cause) {
    throw new AgentError(
      "folder_not_made",
      `Cannot make the guest's folder ${quote(folder.path)}: ${describeError(cause)}`,
      { side: "destination", cause },
    );
  }
}

/** Removes the folder and all that is in it; it may be gone already. */
export async function removeGuestFolder(folder: GuestFolder): Promise<void> {
  try {
    await Deno.remove(folder.path, { recursive: true });
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

/**
 * The guest with that command line has left, and its QEMU has ended: removes the folder that was made for
 * it here, if one was. Nothing goes that could be worth something: neither a log that says something
 * nor a folder with anything else in it.
 */
export async function removeLeftFolder(argv: readonly string[]): Promise<void> {
  const valueOf = (option: string) => argv[argv.lastIndexOf(option) + 1] ?? "";
  const path = /^(\/.+)\/[^/]+$/.exec(valueOf("-pidfile"))?.[1];
  const log = `${path}/${LOG_FILE}`;
  if (valueOf("-pidfile") !== `${path}/${PID_FILE}` || valueOf("-D") !== log) return;
  try {
    if ((await Deno.stat(log)).size > 0) return;
    await Deno.remove(log);
    await Deno.remove(path!);
  } catch (error) {
    const isKept = error instanceof Deno.errors.NotFound ||
      (error as { code?: string }).code === "ENOTEMPTY";
    if (!isKept) throw error;
  }
}

/** The process id in a file; null when there is no such file. */
export async function readPidFile(path: string): Promise<number | null> {
  try {
    const pid = Number((await Deno.readTextFile(path)).trim());
    return Number.isInteger(pid) && pid > 0 ? pid : null;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}
