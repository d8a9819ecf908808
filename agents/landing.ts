// The QEMU that waits for the guest at the destination, with its exports and its way in for the memory:
// started, started anew after a lost connection, taken away. When is the receiver's story.

import { AgentError } from "../src/base/errors.ts";
import type { RequestBody } from "../src/control/messages.ts";
import type { DestinationPlan, DestinationQemu, RegisterUndo } from "../src/guest/destination.ts";
import { Exports } from "../src/guest/exports.ts";
import { queryFeatures } from "../src/guest/features.ts";
import { makePrivateFolder, type PrivateFolder } from "../src/guest/private_folder.ts";
import { IncomingMigration } from "../src/guest/ram.ts";
import type { Migration } from "../src/migration/migration.ts";
import type { WireStream } from "../src/wire/stream.ts";
import type { Line } from "./line.ts";
import { type LocalRelay, relayToSocket } from "./local_relay.ts";
import { type NbdListen, type ServedNbd, serveNbd } from "./nbd_transport.ts";

export interface LandingOptions {
  plan: DestinationPlan;
  migration: Migration;
  line: Line;
  /** How the sender wants the disks to travel. */
  asked: RequestBody<"prepare">["nbd"];
  allowPlain: boolean;
  listen: NbdListen;
  onEffect: RegisterUndo;
}

export class Landing {
  readonly #options: LandingOptions;
  #qemu: DestinationQemu;
  /** Its QEMU's end ends the migration. */
  #release: () => void;
  #exports: Exports;
  #served: ServedNbd | null = null;
  #folder: PrivateFolder | undefined;
  #incoming: IncomingMigration | undefined;
  #relay: LocalRelay | undefined;

  constructor(qemu: DestinationQemu, options: LandingOptions) {
    this.#options = options;
    this.#qemu = qemu;
    this.#release = options.migration.failWith(qemu.qmp.ended);
    this.#exports = new Exports(qemu.qmp, options.plan.targets);
  }

  get qemu(): DestinationQemu {
    return this.#qemu;
  }

  /** What the sender is told of the exports; null when no disk is mirrored. */
  get served(): ServedNbd | null {
    return this.#served;
  }

  /** Starts the exports; after a restart as they were, for mirrors that go on. */
  async serveDisks(signal: AbortSignal): Promise<void> {
    const { migration, line, asked, allowPlain, listen, onEffect } = this.#options;
    const { qmp, pid } = this.#qemu;
    await this.#folder?.[Symbol.asyncDispose]();
    this.#folder = await makePrivateFolder({ pid });
    const { path } = this.#folder;
    const folder = this.#folder;
    await onEffect(`remove ${path}`, () => Promise.resolve(folder[Symbol.asyncDispose]()), {
      kind: "folder",
      path,
    });
    if (this.#exports.count === 0) return;
    this.#served = await serveNbd(this.#exports, {
      end: { qmp, pid, folder: this.#folder, migration, line },
      asked,
      allowPlain,
      features: await queryFeatures(qmp, signal),
      listen,
      before: this.#served,
      signal,
    });
  }

  /** Brings what has been mirrored so far onto the disks: less is left to do while the guest waits. */
  flushDisks(signal: AbortSignal): Promise<void> {
    return this.#exports.flush(signal);
  }

  /** Makes QEMU take the memory from `stream`. */
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

  /**
   * After a lost connection, for mirrors that go on: the server is stopped, which waits for what it has
   * got, and started anew at the same address. What came over the old connections must not be written
   * after what comes over the new ones.
   */
  async reopenDisks(signal: AbortSignal): Promise<void> {
    await this.#exports.stop(signal);
    await this.forgetKey();
    await this.serveDisks(signal);
  }

  stopDisks(signal: AbortSignal): Promise<void> {
    return this.#exports.stop(signal);
  }

  waitLoaded(signal: AbortSignal): Promise<void> {
    return this.#incoming!.waitLoaded(signal);
  }

  /**
   * A QEMU whose memory has stopped half-way cannot go on: another one takes its place, with the same
   * disks under the same address. What the mirrors have written is brought into the images first.
   * @throws AgentError `cannot_restart` when this QEMU was not started here
   */
  async restart(signal: AbortSignal): Promise<void> {
    const { migration, plan } = this.#options;
    if (!this.#qemu.restart) {
      throw new AgentError(
        "cannot_restart",
        "The connection was lost while the memory was sent, and the destination's QEMU, which was " +
          "not started by this program, cannot take it a second time",
        { kind: "link", side: "destination" },
      );
    }
    this.#release();
    // QEMU ends when its memory's connection does, so that is closed last.
    await this.#exports.stop(signal);
    this.#incoming?.[Symbol.dispose]();
    this.#qemu = await this.#qemu.restart(signal);
    this.#relay?.close();
    this.#release = migration.failWith(this.#qemu.qmp.ended);
    this.#exports = new Exports(this.#qemu.qmp, plan.targets);
    await this.serveDisks(signal);
  }

  /** Makes QEMU forget the key of the exports. */
  async forgetKey(): Promise<void> {
    await this.#served?.credentials?.remove();
  }

  /** Lets go of QEMU; a guest that runs there runs on. */
  async close(): Promise<void> {
    this.#relay?.close();
    this.#incoming?.[Symbol.dispose]();
    await this.#qemu.qmp.close();
    await this.#folder?.[Symbol.asyncDispose]();
  }
}
