// The guest's disks on their way out: the mirrors, and the way that they take to the other host.

import { AgentError, quote } from "../src/base/errors.ts";
import type { ReplyBody, RequestBody } from "../src/control/messages.ts";
import { MirrorSet } from "../src/guest/mirror.ts";
import type { PskCredentials } from "../src/guest/nbd_keys.ts";
import type { SourceGuest } from "../src/guest/source.ts";
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
  /** Bytes per second for each disk; 0: no limit. */
  speedBytesPerS: number;
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

  /** Finds the way to the receiver's NBD servers; the mirrors are started by the caller. */
  static async reach(options: OutboundDisksOptions, signal: AbortSignal): Promise<OutboundDisks> {
    const { guest, nbd, exports, asked, end, speedBytesPerS, reconnectMs } = options;
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
      speedBytesPerS,
      reconnectMs,
      connections: way.connections,
      ...(hypervisor === "xen" ? { connectTimeoutMs: DEVICE_MODEL_CONNECT_MS } : {}),
      features,
    });
    return new OutboundDisks(mirrors, way);
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
