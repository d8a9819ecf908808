// The destination's side of the disks: QEMU's own NBD server with one export per mirrored disk.
// Knows nothing of the agents' connection. Specification: QMP `nbd-server-start`,
// `block-export-add`; docs/how-it-works.md, "Why the exports have nodes of their own".

import { getAvailablePort } from "@std/net";
import { AgentError, quote } from "../base/errors.ts";
import { type QmpClient, QmpCommandError } from "../qmp/client.ts";
import { flushImages } from "./flush.ts";
import type { TargetDisk } from "./destination.ts";

/** Where the server listens: a TCP address with the ports that it may take, or a socket. */
export type NbdListen =
  | { type: "inet"; host: string; ports: { first: number; last: number } | null }
  | { type: "unix"; path: string };

/** How often another ephemeral port is tried when one was taken between choosing and listening. */
const EPHEMERAL_TRIES = 20;

export class Exports {
  readonly #qmp: QmpClient;
  readonly #targets: readonly TargetDisk[];
  #listening = false;
  readonly #nodes: string[] = [];

  constructor(qmp: QmpClient, targets: readonly TargetDisk[]) {
    this.#qmp = qmp;
    this.#targets = targets.filter(({ disk }) => disk.action === "mirror");
  }

  /** How many disks are mirrored. */
  get count(): number {
    return this.#targets.length;
  }

  /**
   * Starts the server and exports every target; gives the TCP port. Undo with `stop`, also after an
   * error. After `stop` it can be started again, here or in another QEMU on the same disks: on the
   * same port when `ports` is just that one.
   *
   * Each target is opened a second time, by nodes of our own: the guest's nodes may have any
   * options (throttling, no `discard`), and are inactive until the guest runs here; ours keep a
   * thin disk thin and are gone before that.
   */
  async start(
    options: { listen: NbdListen; tlsCreds: string | null; signal: AbortSignal },
  ): Promise<{ port: number | null; exports: { disk: string; export: string }[] }> {
    const { signal } = options;
    const port = await this.#listen(options);
    const exports: { disk: string; export: string }[] = [];
    for (const [index, target] of this.#targets.entries()) {
      const nodeName = `migrate-agent-export-${index}`;
      await this.#qmp.execute("blockdev-add", {
        driver: target.disk.format,
        "node-name": nodeName,
        discard: "unmap",
        ...(isWindow(target) ? { size: target.disk.virtual_size_bytes } : {}),
        file: { driver: target.protocol, filename: target.path, discard: "unmap" },
      }, { signal });
      this.#nodes.push(nodeName);
      const name = `disk-${index}`;
      await this.#qmp.execute("block-export-add", {
        type: "nbd",
        id: `migrate-agent-${index}`,
        "node-name": nodeName,
        name,
        writable: true,
      }, { signal });
      exports.push({ disk: target.disk.name, export: name });
    }
    return { port, exports };
  }

  /** Brings what has been mirrored so far onto the disks. */
  async flush(signal: AbortSignal): Promise<void> {
    await flushImages(this.#targets.map(({ path }) => path!), signal);
  }

  /**
   * Ends the server and closes the nodes; what was written is in the images, also what QEMU held back
   * of a qcow2 image's tables. Must come before the guest runs here: its own nodes take the images'
   * locks then. Can be called twice.
   *
   * It is also what mirrors must wait for that go on after a lost link (`MirrorSet.resume`): once it is
   * done nothing that came over an old connection can still be written. And it must come before a QEMU
   * is ended whose mirrors are to go on with the next one: they do not send again what was
   * acknowledged.
   * @param server ends the wait for the server, by default that for all of it
   */
  async stop(signal: AbortSignal, server = signal): Promise<void> {
    if (this.#listening) {
      await this.#qmp.execute("nbd-server-stop", {}, { signal: server });
      this.#listening = false;
    }
    while (this.#nodes.length > 0) {
      await this.#qmp.execute("blockdev-del", { "node-name": this.#nodes.at(-1)! }, { signal });
      this.#nodes.pop();
    }
  }

  /** QEMU does not report a port that it chose itself, so one is chosen here and tried. */
  async #listen(
    options: { listen: NbdListen; tlsCreds: string | null; signal: AbortSignal },
  ): Promise<number | null> {
    const { listen, tlsCreds, signal } = options;
    const start = async (addr: unknown) => {
      await this.#qmp.execute("nbd-server-start", {
        addr,
        ...(tlsCreds === null ? {} : { "tls-creds": tlsCreds }),
        "max-connections": 0,
      }, { signal });
      this.#listening = true;
    };
    if (listen.type === "unix") {
      await start({ type: "unix", data: { path: listen.path } });
      return null;
    }
    const { host, ports } = listen;
    let lastError: QmpCommandError | undefined;
    for (const port of candidatePorts(ports)) {
      try {
        await start({ type: "inet", data: { host, port: String(port) } });
        return port;
      } catch (error) {
        if (!(error instanceof QmpCommandError) || !/in use/i.test(error.message)) throw error;
        lastError = error;
      }
    }
    const range = ports ? ` in ${ports.first}-${ports.last}` : "";
    throw new AgentError(
      "no_nbd_port",
      `No free port${range} for the NBD server on ${quote(host)}`,
      {
        side: "destination",
        cause: lastError,
        hint: "every migration needs a port of its own: widen --nbd-ports",
      },
    );
  }
}

/** Ports to try, one after the other: those of the range, or a few that are free just now. */
export function* candidatePorts(range: { first: number; last: number } | null): Generator<number> {
  if (range) { for (let port = range.first; port <= range.last; port++) yield port; }
  else for (let tried = 0; tried < EPHEMERAL_TRIES; tried++) yield getAvailablePort();
}

/** A block device may be larger than the disk: only as much of it is the target. */
function isWindow({ disk, protocol }: TargetDisk): boolean {
  return disk.format === "raw" && protocol === "host_device";
}
