// The guest's disks on their way out: the mirrors, and the way that they take to the other host.

import { AgentError, quote } from "../src/base/errors.ts";
import type { ReplyBody, RequestBody } from "../src/control/messages.ts";
import { MirrorSet } from "../src/guest/mirror.ts";
import type { PskCredentials } from "../src/guest/nbd_keys.ts";
import type { SourceGuest } from "../src/guest/source.ts";
import type { Limits } from "./limits.ts";
import { type NbdEnd, reachNbd } from "./nbd_transport.ts";

/** A domain's processors go on while its device model connects: there is time for a slow host. */
const DEVICE_MODEL_CONNECT_MS = 30_000;

export interface OutboundDisksOptions {
  guest: SourceGuest;
  /** What the receiver serves, and how that was asked for. */
  nbd: NonNullable<ReplyBody<"prepare">["nbd"]>;
  exports: ReplyBody<"prepare">["exports"];
  asked: RequestBody<"prepare">["nbd"];
  end: NbdEnd;
  limits: Limits;
  reconnectMs: number;
}

export class OutboundDisks implements Disposable {
  readonly mirrors: MirrorSet;
  readonly #credentials: PskCredentials | null;
  readonly #listeners: readonly Disposable[];

  private constructor(mirrors: MirrorSet, way: {
    credentials: PskCredentials | null;
    listeners: readonly Disposable[];
  }) {
    this.mirrors = mirrors;
    this.#credentials = way.credentials;
    this.#listeners = way.listeners;
  }

  /**
   * Starts the mirrors. Until all of them go on there is nothing worth keeping: when the connection to
   * the receiver is lost meanwhile, and may be found again, they are ended and begin anew.
   */
  static async start(options: OutboundDisksOptions, signal: AbortSignal): Promise<OutboundDisks> {
    const { limits, end: { line, migration } } = options;
    for (;;) {
      const peer = await line.connected(signal);
      const untilLost = AbortSignal.any([signal, peer.lost]);
      let disks: OutboundDisks | undefined;
      try {
        disks = await migration.run("reach_nbd", () => OutboundDisks.#reach(options, signal));
        const { mirrors } = disks;
        migration.undo.add("end the mirrors", () => mirrors.abandon());
        await migration.run("start_mirrors", () => mirrors.start(untilLost));
        untilLost.throwIfAborted();
        // What somebody has set since they were made.
        if (mirrors.speedBytesPerS !== limits.diskBandwidth) {
          await mirrors.setSpeed(limits.diskBandwidth, signal);
        }
        return disks;
      } catch (error) {
        const reason = await line.lossBehind(error, { peer, signal });
        if (reason === null) throw error;
        await disks?.abandon();
      }
    }
  }

  /** Finds the way to the receiver's NBD servers. */
  static async #reach(options: OutboundDisksOptions, signal: AbortSignal): Promise<OutboundDisks> {
    const { guest, nbd, exports, asked, end, limits, reconnectMs } = options;
    const { qmp, features, params: { disks, hypervisor } } = guest;
    const way = await reachNbd(nbd, { end, exports, asked, signal });
    const mirrors = new MirrorSet(qmp, {
      tlsCreds: way.tlsCreds,
      targets: exports.map(({ disk: name, export: exportName, server }) => ({
        disk: disks.find((disk) => disk.name === name && disk.action === "mirror") ??
          unknownDisk(name),
        nbd: way.servers[server]!,
        export: exportName,
      })),
      speedBytesPerS: limits.diskBandwidth,
      reconnectMs,
      connections: way.connections,
      ...(hypervisor === "xen" ? { connectTimeoutMs: DEVICE_MODEL_CONNECT_MS } : {}),
      features,
    });
    return new OutboundDisks(mirrors, way);
  }

  /** Ends everything, so that the mirrors can be started anew. */
  async abandon(): Promise<void> {
    await this.mirrors.abandon();
    await this.removeKey();
    this[Symbol.dispose]();
  }

  /** Makes QEMU forget the key; the mirrors have ended. */
  async removeKey(): Promise<void> {
    await this.#credentials?.remove();
  }

  [Symbol.dispose](): void {
    this.mirrors[Symbol.dispose]();
    for (const listener of this.#listeners) listener[Symbol.dispose]();
  }
}

function unknownDisk(name: string): never {
  throw new AgentError(
    "unknown_disk",
    `The receiver exports ${quote(name)}, which is not mirrored`,
  );
}
