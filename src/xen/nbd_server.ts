// The destination's side of a Xen domain's disks: one qemu-nbd for each mirrored disk, because the
// domain's device model, which could export them, starts only after the memory has arrived. Knows
// nothing of the agents' connection. Specification: qemu-nbd(8); docs/xen.md, "Disks".

import { abortable, Deadline, delay } from "../base/deadline.ts";
import { AgentError, quote } from "../base/errors.ts";
import type { RegisterUndo, TargetDisk } from "../guest/destination.ts";
import { candidatePorts, type NbdListen } from "../guest/exports.ts";
import { flushImages } from "../guest/flush.ts";
import { PSK_PRIORITY, writeServerKey } from "../guest/nbd_keys.ts";
import type { PrivateFolder } from "../guest/private_folder.ts";
import { openFiles } from "../guest/proc.ts";

const START_TIMEOUT_MS = 30_000;
/** For a server to write what it holds; the guest may stand still meanwhile. */
const STOP_TIMEOUT_MS = 20_000;
const LOOK_AGAIN_MS = 10;
const MAX_STDERR_CHARS = 1000;

/** Where one disk is served. */
export interface NbdExport {
  disk: string;
  export: string;
  /** Null for a unix socket. */
  port: number | null;
  /** The unix socket; null for TCP. */
  path: string | null;
  /** The server's process. */
  pid: number;
}

interface Server {
  target: TargetDisk;
  child: Deno.ChildProcess;
  /** What it has printed when it has ended. */
  ended: Promise<string>;
}

export class NbdServers {
  readonly #targets: readonly TargetDisk[];
  readonly #folder: PrivateFolder;
  readonly #servers: Server[] = [];
  readonly #failed = new AbortController();
  #stopped = Promise.withResolvers<void>();
  #stopping = false;
  #hasKey = false;

  /** @param folder for keys and sockets; its owner is the user that qemu-nbd runs as: our own */
  constructor(targets: readonly TargetDisk[], folder: PrivateFolder) {
    this.#targets = targets.filter(({ disk }) => disk.action === "mirror");
    this.#folder = folder;
    if (this.#targets.length === 0) this.#stopped.resolve();
  }

  /** How many disks are mirrored. */
  get count(): number {
    return this.#targets.length;
  }

  /** Aborts when a server has ended by itself. */
  get failed(): AbortSignal {
    return this.#failed.signal;
  }

  /** Resolves when every server is gone: the images are free for the device model. */
  get stopped(): Promise<void> {
    return this.#stopped.promise;
  }

  /**
   * Starts a server for every target. Undo with `stop`, also after an error; after that it can be
   * called again.
   * @param options.listen for sockets `path` is a prefix: every server gets one of its own
   * @param options.again the ports at which they listened before; null at the first start
   * @param options.key the pre-shared key that a client must have; null for no encryption
   */
  async start(options: {
    listen: NbdListen;
    again: readonly number[] | null;
    key: string | null;
    onEffect: RegisterUndo;
    signal: AbortSignal;
  }): Promise<NbdExport[]> {
    const { key, onEffect, signal } = options;
    // What a server held is of no interest then.
    await onEffect("end the NBD servers", async () => void await this.#end());
    if (this.#stopping) this.#stopped = Promise.withResolvers();
    this.#stopping = false;
    if (key !== null && !this.#hasKey) {
      await writeServerKey(this.#folder, key);
      this.#hasKey = true;
    }
    const exports: NbdExport[] = [];
    const taken = new Set<number>();
    for (const [index, target] of this.#targets.entries()) {
      exports.push(await this.#startOne(target, { ...options, index, taken }));
      signal.throwIfAborted();
    }
    return exports;
  }

  /** Brings what has been mirrored so far onto the disks. */
  async flush(signal: AbortSignal): Promise<void> {
    await flushImages(this.#targets.map(({ path }) => path!), signal);
  }

  /**
   * Ends every server, which writes what it holds; can be called twice.
   * @throws AgentError `nbd_server_hangs` when one had to be killed: its image may lack something
   */
  async stop(): Promise<void> {
    const killed = await this.#end();
    if (killed.length > 0) throw serverHangs(killed);
    this.#stopped.resolve();
  }

  /** Gives the disks of which the servers were killed, because they did not end when they were told to. */
  async #end(): Promise<string[]> {
    this.#stopping = true;
    const killed = await Promise.all(this.#servers.map(async ({ target, child, ended }) => {
      terminate(child);
      using limit = new Deadline(STOP_TIMEOUT_MS, () => serverHangs([target.disk.name]));
      try {
        await abortable(ended, limit.signal);
        return [];
      } catch {
        terminate(child, "SIGKILL");
        await ended;
        return [target.disk.name];
      }
    }));
    this.#servers.length = 0;
    return killed.flat();
  }

  async #startOne(
    target: TargetDisk,
    options: {
      listen: NbdListen;
      again: readonly number[] | null;
      key: string | null;
      index: number;
      taken: Set<number>;
      signal: AbortSignal;
    },
  ): Promise<NbdExport> {
    const { listen, again, key, index, taken, signal } = options;
    const common = { disk: target.disk.name, export: `disk-${index}` };
    const args = this.#arguments(target, { name: common.export, encrypted: key !== null });
    if (listen.type === "unix") {
      const path = `${listen.path}.${index}`;
      const said = await this.#spawn(target, [...args, "--socket", path], signal);
      if (typeof said === "string") throw serverFailure(target, said);
      return { ...common, port: null, path, pid: said.pid };
    }
    let last = "";
    for (const port of again ? [again[index]!] : candidatePorts(listen.ports)) {
      if (taken.has(port)) continue;
      const place = ["--bind", listen.host, "--port", String(port)];
      const said = await this.#spawn(target, [...args, ...place], signal);
      if (typeof said !== "string") {
        taken.add(port);
        return { ...common, port, path: null, pid: said.pid };
      }
      if (!/in use/i.test(said)) throw serverFailure(target, said);
      last = said;
    }
    throw new AgentError(
      "no_nbd_port",
      `No free port for the NBD server of disk ${quote(target.disk.name)} on ` +
        `${quote(listen.host)}${last ? `: ${quote(last)}` : ""}`,
      { side: "destination", hint: "every mirrored disk needs a port: widen --nbd-ports" },
    );
  }

  #arguments(target: TargetDisk, options: { name: string; encrypted: boolean }): string[] {
    const { disk, path, protocol } = target;
    // As nodes, so that no character of a path means anything, and a thin disk stays thin.
    const image = {
      driver: disk.format,
      discard: "unmap",
      ...(disk.format === "raw" && protocol === "host_device"
        ? { size: disk.virtual_size_bytes }
        : {}),
      file: { driver: protocol, filename: path, discard: "unmap" },
    };
    const dir = this.#folder.path.replaceAll(",", ",,");
    const tls = options.encrypted
      ? [
        "--object",
        `tls-creds-psk,id=tls0,endpoint=server,dir=${dir},priority=${PSK_PRIORITY}`,
        "--tls-creds",
        "tls0",
      ]
      : [];
    return [
      ...["--persistent", "--shared", "0", "--export-name", options.name],
      ...tls,
      `json:${JSON.stringify(image)}`,
    ];
  }

  /** The server once it listens; what it printed when it ended instead. */
  async #spawn(
    target: TargetDisk,
    args: string[],
    signal: AbortSignal,
  ): Promise<Deno.ChildProcess | string> {
    signal.throwIfAborted();
    // It ends with this program, however that ends: nobody else knows of it.
    const child = new Deno.Command("setpriv", {
      args: ["--pdeathsig", "TERM", "--", "qemu-nbd", ...args],
      stdin: "null",
      stdout: "null",
      stderr: "piped",
      detached: true, // a Ctrl-C at the terminal is for the agent alone
    }).spawn();
    const ended = new Response(child.stderr).text().then(async (text) => {
      await child.status;
      return text.trim().slice(-MAX_STDERR_CHARS) || "it gave no reason";
    });
    const server = { target, child, ended };
    this.#servers.push(server);
    const over = new AbortController();
    ended.then(() => over.abort());
    const listens = await waitListening(child.pid, AbortSignal.any([signal, over.signal]));
    if (!listens) {
      if (!over.signal.aborted) {
        terminate(child);
        await ended;
        signal.throwIfAborted();
        throw serverFailure(target, `it did not listen within ${START_TIMEOUT_MS} ms`);
      }
      this.#servers.splice(this.#servers.indexOf(server), 1);
      return await ended;
    }
    ended.then((text) => {
      if (!this.#stopping) this.#failed.abort(serverFailure(target, text));
    });
    return child;
  }
}

/** Linux tells nobody that a process listens, so this looks again every few milliseconds. */
async function waitListening(pid: number, signal: AbortSignal): Promise<boolean> {
  const end = performance.now() + START_TIMEOUT_MS;
  while (performance.now() < end && !signal.aborted) {
    if (await isListening(pid)) return true;
    await abortable(delay(LOOK_AGAIN_MS), signal).catch(() => {}); // looked at in the condition
  }
  return false;
}

/** Whether a socket of the process listens (proc(5): net/tcp, net/unix). */
async function isListening(pid: number): Promise<boolean> {
  const sockets = new Set(
    (await openFiles(pid)).map((file) => /^socket:\[(\d+)\]$/.exec(file)?.[1]),
  );
  sockets.delete(undefined);
  if (sockets.size === 0) return false;
  for (const [table, state, inode] of [["tcp", 3, 9], ["tcp6", 3, 9], ["unix", 3, 6]] as const) {
    const LISTENING = table === "unix" ? "00010000" : "0A"; // __SO_ACCEPTCON, TCP_LISTEN
    for (const line of (await Deno.readTextFile(`/proc/net/${table}`)).split("\n").slice(1)) {
      const fields = line.trim().split(/\s+/);
      if (fields[state] === LISTENING && sockets.has(fields[inode])) return true;
    }
  }
  return false;
}

function terminate(child: Deno.ChildProcess, signo: "SIGTERM" | "SIGKILL" = "SIGTERM"): void {
  try {
    child.kill(signo);
  } catch (error) {
    if (!(error instanceof TypeError)) throw error; // it has ended already
  }
}

function serverHangs(disks: readonly string[]): AgentError {
  return new AgentError(
    "nbd_server_hangs",
    `The NBD server of disk ${disks.map((name) => quote(name)).join(", ")} did not end within ` +
      `${STOP_TIMEOUT_MS / 1000} s, and was killed: its image may lack what it still held`,
    { side: "destination", hint: "look at the storage of the destination" },
  );
}

function serverFailure({ disk }: TargetDisk, why: string): AgentError {
  return new AgentError(
    "nbd_server_failed",
    `The NBD server of disk ${quote(disk.name)} ended: ${quote(why, MAX_STDERR_CHARS)}`,
    { side: "destination", hint: "qemu-nbd and setpriv must be there (qemu-utils, util-linux)" },
  );
}
