// The guest's memory on its way out: QEMU's own migration into a local socket whose bytes go to the
// other agent. Each `send` is a try of its own, so that a lost connection costs no more than that.

import { flushImages } from "../src/guest/flush.ts";
import type { PrivateFolder } from "../src/guest/private_folder.ts";
import type { RamProgress } from "../src/guest/ram.ts";
import type { Outgoing, SourceGuest } from "../src/guest/source.ts";
import type { Journal } from "../src/migration/journal.ts";
import type { Migration } from "../src/migration/migration.ts";
import type { Limits } from "./limits.ts";
import type { Line } from "./line.ts";
import { LocalListener } from "./local_relay.ts";

export interface OutboundMemoryOptions {
  migration: Migration;
  guest: SourceGuest;
  line: Line;
  journal: Journal;
  /** For the socket. */
  folder: PrivateFolder;
  limits: Limits;
  autoConverge: boolean;
  report: (progress: RamProgress) => void;
}

export class OutboundMemory implements Disposable {
  readonly #options: OutboundMemoryOptions;
  #outgoing: Outgoing | undefined;

  constructor(options: OutboundMemoryOptions) {
    this.#options = options;
  }

  /** The present try. */
  get outgoing(): Outgoing | undefined {
    return this.#outgoing;
  }

  /** Sends all but the last of it; when the guest was stopped for that (ms since the epoch). */
  async send(signal: AbortSignal): Promise<number> {
    const { migration, guest, line, folder, report } = this.#options;
    await migration.run("configure_ram", () => this.#configure(signal));
    const { session, lost } = await line.connected(signal);
    const untilLost = AbortSignal.any([signal, lost]);
    const stream = session.openStream("ram");
    migration.step(5);
    await migration.run("incoming", () => line.request("incoming", {}, untilLost));
    migration.step(6);
    await migration.run("flush", () => {
      const images = guest.params.disks.filter(({ action }) => action === "mirror");
      return flushImages(images.map(({ path }) => path!), untilLost);
    });
    const listener = await LocalListener.open(folder, "ram.sock");
    migration.guard(line.unlessLost(listener.relayOne(stream, migration.signal)));
    await migration.run("start_ram", () => this.#outgoing!.start(listener.path, untilLost));
    return await migration.run(
      "wait_stopped",
      () => this.#outgoing!.waitStopped({ report, signal: untilLost }),
    );
  }

  /** The disks are equal: sends what is left. */
  finish(signal: AbortSignal): Promise<RamProgress> {
    return this.#outgoing!.finish(signal);
  }

  /** Ends the present try; the guest can run on. */
  async cancel(): Promise<void> {
    await this.#outgoing?.cancel();
  }

  /** Puts back what was changed for it. */
  async restore(): Promise<void> {
    await this.#outgoing?.restore();
  }

  [Symbol.dispose](): void {
    this.#outgoing?.[Symbol.dispose]();
  }

  async #configure(signal: AbortSignal): Promise<void> {
    const { guest, journal, limits, autoConverge } = this.#options;
    this.#outgoing?.[Symbol.dispose]();
    const outgoing = this.#outgoing = guest.outgoing();
    const before = guest.remain();
    await outgoing.remember(signal);
    await journal.replaceRemain(before, guest.remain());
    await outgoing.configure({
      bandwidthBytesPerS: limits.ramBandwidth,
      downtimeLimitMs: limits.downtimeLimitMs,
      autoConverge,
    }, signal);
  }
}
