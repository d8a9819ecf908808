// A Xen domain that arrives at the destination: the servers of its disks, xl that receives it, and what
// becomes of it. There is nothing of the domain before its memory comes.
// Specification: docs/xen.md.

import { AgentError } from "../src/base/errors.ts";
import { setNoDelay } from "../src/base/no_delay.ts";
import type { XenGuest } from "../src/xen/destination.ts";
import type { WireStream } from "../src/wire/stream.ts";
import {
  type ArrivingGuest,
  GuestNotResumed,
  type Landing,
  type LandingOptions,
} from "./landing.ts";
import { type LocalRelay, relayToSocket } from "./local_relay.ts";
import {
  type DiskServers,
  type ServedNbd,
  serveNbd,
  type StartedServers,
} from "./nbd_transport.ts";

export class XenLanding implements Landing {
  /** The device model is xl's, and the domain's number is not known before it is there. */
  readonly qmp = null;
  readonly pid = null;
  readonly guest: ArrivingGuest;
  readonly #options: LandingOptions;
  readonly #xen: XenGuest;
  #served: ServedNbd | null = null;
  #relay: LocalRelay | undefined;

  constructor(xen: XenGuest, options: LandingOptions) {
    this.#options = options;
    this.#xen = xen;
    this.guest = new ArrivingDomain(xen);
    options.migration.failWith(this.guest.ended);
  }

  get served(): ServedNbd | null {
    return this.#served;
  }

  async serveDisks(signal: AbortSignal): Promise<void> {
    const { exports, folder } = this.#xen;
    if (exports.count === 0) return;
    const servers: DiskServers = { encrypts: true, start: (how) => this.#startServers(how) };
    const before = this.#served;
    this.#served = await serveNbd(servers, { ...this.#options, folder, before, signal });
  }

  flushDisks(signal: AbortSignal): Promise<void> {
    return this.#xen.exports.flush(signal);
  }

  async takeRam(stream: WireStream, signal: AbortSignal): Promise<void> {
    const { migration, line, onEffect } = this.#options;
    const { incoming, folder } = this.#xen;
    const path = `${folder.path}/ram.sock`;
    await incoming.listen(path, { onEffect, signal });
    this.#relay = await relayToSocket(stream, { path, signal: migration.signal });
    migration.guard(line.unlessLost(this.#relay.done));
  }

  async reopenDisks(signal: AbortSignal): Promise<void> {
    await this.#xen.exports.stop();
    await this.serveDisks(signal);
  }

  async stopDisks(): Promise<void> {
    await this.#xen.exports.stop();
  }

  waitLoaded(signal: AbortSignal): Promise<void> {
    return this.#xen.incoming.waitLoaded(signal);
  }

  restart(): Promise<void> {
    return Promise.reject(
      new AgentError(
        "cannot_restart",
        "The connection was lost while the memory of the Xen domain was sent: xl cannot take it a " +
          "second time",
        { side: "destination" },
      ),
    );
  }

  /** It is in a file that goes with the guest's folder; its servers have ended. */
  async forgetKey(): Promise<void> {}

  async close(): Promise<void> {
    this.#relay?.close();
    await this.#xen.close();
  }

  /** Each disk has a server of its own. */
  async #startServers(
    { listen, again, key, signal }: Parameters<DiskServers["start"]>[0],
  ): Promise<StartedServers> {
    const { onEffect } = this.#options;
    const started = await this.#xen.exports.start({ listen, again, key, onEffect, signal });
    const ports = started.flatMap(({ port }) => port ?? []);
    for (const { pid, port } of started) {
      // False is no failure: only slower.
      if (port !== null) await setNoDelay({ pid, localPort: port, remotePort: null });
    }
    return {
      ports,
      paths: started.flatMap(({ path }) => path ?? []),
      exports: started.map(({ disk, export: name }, server) => ({ disk, export: name, server })),
    };
  }
}

class ArrivingDomain implements ArrivingGuest {
  readonly ended: AbortSignal;
  readonly #xen: XenGuest;
  readonly #gone = new AbortController();

  constructor(xen: XenGuest) {
    this.#xen = xen;
    this.ended = AbortSignal.any([xen.ended, this.#gone.signal]);
  }

  async resume(run: boolean): Promise<Date> {
    if (this.ended.aborted) throw new GuestNotResumed(this.ended.reason);
    try {
      return await this.#xen.resume(run);
    } catch (error) {
      if (error instanceof AgentError && error.code === "xl_refused") {
        throw new GuestNotResumed(error);
      }
      if (!await this.#xen.isThere()) this.#gone.abort(error);
      throw error;
    }
  }

  async settle(run: boolean): Promise<void> {
    await this.#xen.settle(run);
  }
}
