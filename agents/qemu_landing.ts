// The QEMU that waits for the guest at the destination, with its exports and its way in for the memory:
// started, started anew after a lost connection, taken away.

import { Deadline } from "../src/base/deadline.ts";
import { AgentError } from "../src/base/errors.ts";
import { setNoDelay } from "../src/base/no_delay.ts";
import type { DestinationQemu } from "../src/guest/destination.ts";
import { Exports } from "../src/guest/exports.ts";
import { queryFeatures } from "../src/guest/features.ts";
import { evictClients } from "../src/guest/nbd_clients.ts";
import { PskCredentials } from "../src/guest/nbd_keys.ts";
import { endOfQemu } from "../src/guest/qemu_end.ts";
import { makePrivateFolder, type PrivateFolder } from "../src/guest/private_folder.ts";
import { IncomingMigration } from "../src/guest/ram.ts";
import { resumeGuest } from "../src/guest/resume.ts";
import { QmpCommandError } from "../src/qmp/client.ts";
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

/** What QEMU may take to end its NBD server when nobody uses it any more. */
const STOP_TIMEOUT_MS = 5000;

export class QemuLanding implements Landing {
  readonly #options: LandingOptions;
  #qemu: DestinationQemu;
  /** Its QEMU's end ends the migration. */
  #release: () => void;
  #exports: Exports;
  #served: ServedNbd | null = null;
  #credentials: PskCredentials | null = null;
  #folder: PrivateFolder | undefined;
  #incoming: IncomingMigration | undefined;
  #relay: LocalRelay | undefined;

  constructor(qemu: DestinationQemu, options: LandingOptions) {
    this.#options = options;
    this.#qemu = qemu;
    this.#release = options.migration.failWith(endOfQemu(qemu));
    this.#exports = new Exports(qemu.qmp, options.plan.targets);
  }

  get qmp(): string {
    return this.#qemu.qmp.path;
  }

  get pid(): number {
    return this.#qemu.pid;
  }

  get guest(): ArrivingGuest {
    return new QemuGuest(this.#qemu);
  }

  get served(): ServedNbd | null {
    return this.#served;
  }

  async serveDisks(signal: AbortSignal): Promise<void> {
    const { onEffect } = this.#options;
    const { qmp, pid } = this.#qemu;
    await this.#folder?.[Symbol.asyncDispose]();
    const folder = this.#folder = await makePrivateFolder({ pid });
    const { path } = folder;
    await onEffect(`remove ${path}`, () => Promise.resolve(folder[Symbol.asyncDispose]()), {
      kind: "folder",
      path,
    });
    if (this.#exports.count === 0) return;
    const { psk: encrypts } = await queryFeatures(qmp, signal);
    const servers: DiskServers = { encrypts, start: (how) => this.#startServer(folder, how) };
    const before = this.#served;
    this.#served = await serveNbd(servers, { ...this.#options, folder, before, signal });
  }

  flushDisks(signal: AbortSignal): Promise<void> {
    return this.#exports.flush(signal);
  }

  async takeRam(stream: WireStream, signal: AbortSignal): Promise<void> {
    const { migration, line } = this.#options;
    const path = `${this.#folder!.path}/ram.sock`;
    const { qmp } = this.#qemu;
    this.#incoming = new IncomingMigration(qmp);
    const features = await queryFeatures(qmp, signal);
    await this.#incoming.listen(path, { features, signal });
    this.#relay = await relayToSocket(stream, { path, signal: migration.signal });
    migration.guard(line.unlessLost(this.#relay.done));
  }

  async reopenDisks(signal: AbortSignal): Promise<void> {
    await this.#stopServer(signal);
    await this.forgetKey();
    await this.serveDisks(signal);
  }

  /** The guest waits: a server that does not end is given up soon. */
  async stopDisks(signal: AbortSignal): Promise<void> {
    using limit = new Deadline(STOP_TIMEOUT_MS, serverHangs, signal);
    await this.#stopServer(signal, limit.signal);
  }

  waitLoaded(signal: AbortSignal): Promise<void> {
    return this.#incoming!.waitLoaded(signal);
  }

  /** Another QEMU takes the place of this one, which cannot go on. */
  async restart(signal: AbortSignal): Promise<void> {
    const { migration, plan } = this.#options;
    if (!this.#qemu.restart) {
      throw new AgentError(
        "cannot_restart",
        "The connection was lost while the memory was sent, and the destination's QEMU, which was " +
          "not started by this program, cannot take it a second time",
        { side: "destination" },
      );
    }
    this.#release();
    // QEMU ends when its memory's connection does, so that is closed last.
    await this.#stopServer(signal);
    this.#incoming?.[Symbol.dispose]();
    this.#qemu = await this.#qemu.restart(signal);
    this.#relay?.close();
    this.#release = migration.failWith(endOfQemu(this.#qemu));
    this.#exports = new Exports(this.#qemu.qmp, plan.targets);
    await this.serveDisks(signal);
  }

  /** Makes QEMU forget it. */
  async forgetKey(): Promise<void> {
    await this.#credentials?.remove();
  }

  async close(): Promise<void> {
    this.#relay?.close();
    this.#incoming?.[Symbol.dispose]();
    await this.#qemu.qmp.close();
    await this.#folder?.[Symbol.asyncDispose]();
  }

  /** In a tunnel nobody else is let in, and what is left of a lost connection has ended. */
  async #stopServer(signal: AbortSignal, server = signal): Promise<void> {
    const { nbd } = this.#served ?? {};
    if (nbd?.transport === "direct") {
      await evictClients({ pid: this.#qemu.pid, ports: nbd.ports }, server);
    }
    await this.#exports.stop(signal, server);
  }

  /** QEMU's one server has all the disks. */
  async #startServer(
    folder: PrivateFolder,
    { listen, again, key, signal }: Parameters<DiskServers["start"]>[0],
  ): Promise<StartedServers> {
    const { qmp, pid } = this.#qemu;
    this.#credentials = key === null ? null : new PskCredentials(qmp, folder);
    const endpoint = "server";
    const tlsCreds = key === null
      ? null
      : await this.#credentials!.install({ endpoint, key }, signal);
    const [only] = again ?? [];
    const where = listen.type === "inet" && only !== undefined
      ? { ...listen, ports: { first: only, last: only } }
      : listen;
    const { port, exports } = await this.#exports.start({ listen: where, tlsCreds, signal });
    // False is no failure: only slower.
    if (port !== null) await setNoDelay({ pid, localPort: port, remotePort: null });
    return {
      ports: port === null ? [] : [port],
      paths: listen.type === "unix" ? [listen.path] : [],
      exports: exports.map((one) => ({ ...one, server: 0 })),
    };
  }
}

function serverHangs(): AgentError {
  return new AgentError(
    "nbd_server_hangs",
    `The destination's QEMU has not ended its NBD server within ${STOP_TIMEOUT_MS / 1000} s`,
    { side: "destination" },
  );
}

class QemuGuest implements ArrivingGuest {
  readonly #qemu: DestinationQemu;

  constructor(qemu: DestinationQemu) {
    this.#qemu = qemu;
  }

  get ended(): AbortSignal {
    return this.#qemu.qmp.ended;
  }

  async resume(run: boolean, signal: AbortSignal): Promise<Date> {
    if (!run) return new Date();
    if (this.ended.aborted) throw new GuestNotResumed(this.ended.reason);
    try {
      return await resumeGuest(this.#qemu.qmp, signal);
    } catch (error) {
      throw error instanceof QmpCommandError ? new GuestNotResumed(error) : error;
    }
  }

  async settle(run: boolean, signal: AbortSignal): Promise<void> {
    const { qmp } = this.#qemu;
    const { running } = await qmp.execute("query-status", {}, { signal });
    if (!running && run) await qmp.execute("cont", {}, { signal });
  }
}
