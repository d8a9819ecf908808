// What XenStore says of a domain's disks, and its word that some domain has stopped. Read with Xen's
// own programs, xenstore-ls(1), xenstore-read(1) and xenstore-watch(1). Trusts libxl's own part of the
// store (/libxl, the backends) only: a guest can write into its own.

import { TextLineStream } from "@std/streams/text-line-stream";
import { runTool, XenToolError } from "./xl.ts";

/** Connected, in the words of Xen's xenbus.h (XenbusStateInitialised is on the way there). */
const IN_USE_STATES = new Set(["3", "4"]);

/** How a disk is offered to PV drivers in the guest. */
export interface DiskBackend {
  /** The name in the guest: `hda`, `xvda`. */
  vdev: string;
  /** `qdisk`: the device model; anything else (`vbd`: blkback in a kernel) is not. */
  type: string;
  /** The domain that serves it. */
  domid: number;
  /** The backend's folder in the store. */
  path: string;
  /** A driver in the guest uses it. */
  connected: boolean;
}

/** Every disk that libxl gave to the domain. */
export async function readBackends(domid: number, signal: AbortSignal): Promise<DiskBackend[]> {
  const root = `/libxl/${domid}/device/vbd`;
  let text: string;
  try {
    text = await runTool("xenstore-ls", ["-f", root], { signal });
  } catch (error) {
    if (error instanceof XenToolError && /No such file/i.test(error.said)) return [];
    throw error;
  }
  const found = parseBackends(text, root);
  if (found.length === 0) return [];
  const paths = found.map(({ path }) => `${path}/state`);
  const states = (await runTool("xenstore-read", paths, { signal })).split("\n");
  return found.map((disk, at) => ({ ...disk, connected: IN_USE_STATES.has(states[at]!.trim()) }));
}

export function parseBackends(text: string, root: string): Omit<DiskBackend, "connected">[] {
  const entries = new Map<string, string>();
  for (const line of text.split("\n")) {
    const entry = /^(\S+) = "(.*)"$/.exec(line);
    if (entry) entries.set(entry[1]!, entry[2]!);
  }
  const found: Omit<DiskBackend, "connected">[] = [];
  for (const [key, path] of entries) {
    const device = key.startsWith(root + "/") && /^\/\d+\/backend$/.test(key.slice(root.length));
    const parts = /^\/local\/domain\/(\d+)\/backend\/([\w-]+)\//.exec(path);
    const vdev = entries.get(key.replace(/backend$/, "dev"));
    if (!device || !parts || vdev === undefined) continue;
    found.push({ vdev, type: parts[2]!, domid: Number(parts[1]), path });
  }
  return found;
}

/**
 * Calls `look` now and each time that some domain has stopped or gone, until it gives a value. The
 * store's `@releaseDomain` says no more than that; the watch itself fires once at its start.
 */
export async function watchDomains<T>(
  look: () => Promise<T | null>,
  signal: AbortSignal,
): Promise<T> {
  signal.throwIfAborted();
  const watcher = new Deno.Command("xenstore-watch", {
    args: ["@releaseDomain"],
    stdin: "null",
    stdout: "piped",
    stderr: "null",
    detached: true, // a Ctrl-C at the terminal is for the agent alone
  }).spawn();
  let ended = false;
  const status = watcher.status.then(() => ended = true);
  const end = () => {
    if (!ended) watcher.kill("SIGTERM");
  };
  signal.addEventListener("abort", end, { once: true });
  try {
    const lines = watcher.stdout.pipeThrough(new TextDecoderStream()).pipeThrough(
      new TextLineStream(),
    );
    for await (const _ of lines) {
      const found = await look();
      if (found !== null) return found;
    }
    signal.throwIfAborted();
    throw new XenToolError("'xenstore-watch @releaseDomain'", "it ended");
  } finally {
    signal.removeEventListener("abort", end);
    end();
    await status;
  }
}
