// The destination's side of the disks: QEMU's own NBD server with one export per mirrored disk.
// Knows nothing of the agents' connection. Specification: QMP `nbd-server-start`,
// `block-export-add`; docs/how-it-works.md, "Why the exports have nodes of their own".

import { getAvailablePort } from "@std/net";
import { AgentError, quote } from "../base/errors.ts";
import { type QmpClient, QmpCommandError } from "../qmp/client.ts";
import { flushImages } from "./flush.ts";
import type { TargetDisk } from "./destination.ts";

export interface NbdAddress {
  /** The address that the server listens on. */
  host: string;
  /** The ports that it may take, or null for any free one. */
  ports: { first: number; last: number } | null;
}

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
   * Starts the server and exports every target; gives the port. Undo with `stop`, also after an
   * error.
   *
   * Each target is opened a second time, by nodes of our own: the guest's nodes may have any
   * options (throttling, no `discard`), and are inactive until the guest runs here; ours keep a
   * thin disk thin and are gone before that.
   */
  async start(address: NbdAddress, signal: AbortSignal): Promise<{
    port: number;
    exports: { disk: string; export: string }[];
  }> {
    const port = await this.#listen(address, signal);
    const exports: { disk: string; export: string }[] = [];
    for (const [index, target] of this.#targets.entries()) {
      const nodeName = `migrate-agent-export-${index}`;
      await this.#qmp.execute("blockdev-add", {
        driver: target.disk.format,
        "node-name": nodeName,
        discard: "unmap",
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
   * Ends the server and closes the nodes; what was written is in the images. Must come before the
   * guest runs here: its own nodes take the images' locks then. Can be called twice.
   */
  async stop(signal: AbortSignal): Promise<void> {
    if (this.#listening) {
      await this.#qmp.execute("nbd-server-stop", {}, { signal });
      this.#listening = false;
    }
    while (this.#nodes.length > 0) {
      await this.#qmp.execute("blockdev-del", { "node-name": this.#nodes.at(-1)! }, { signal });
      this.#nodes.pop();
    }
  }

  /** QEMU does not report a port that it chose itself, so one is chosen here and tried. */
  async #listen(address: NbdAddress, signal: AbortSignal): Promise<number> {
    let lastError: QmpCommandError | undefined;
    for (const port of candidatePorts(address.ports)) {
      try {
        await this.#qmp.execute("nbd-server-start", {
          addr: { type: "inet", data: { host: address.host, port: String(port) } },
          "max-connections": 0,
        }, { signal });
        this.#listening = true;
        return port;
      } catch (error) {
        if (!(error instanceof QmpCommandError) || !/in use/i.test(error.message)) throw error;
        lastError = error;
      }
    }
    const range = address.ports ? ` in ${address.ports.first}-${address.ports.last}` : "";
    throw new AgentError(
      "no_nbd_port",
      `No free port${range} for the NBD server on ${quote(address.host)}`,
      {
        side: "destination",
        cause: lastError,
        hint: "every migration needs a port of its own: widen --nbd-ports",
      },
    );
  }
}

function* candidatePorts(range: NbdAddress["ports"]): Generator<number> {
  if (range) { for (let port = range.first; port <= range.last; port++) yield port; }
  else for (let tried = 0; tried < EPHEMERAL_TRIES; tried++) yield getAvailablePort();
}
