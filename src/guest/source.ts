// The guest on its way out, as the sender's story sees it, whatever runs it; and how that is done for
// a guest of plain QEMU. (A Xen domain is in src/xen.)

import { identifyProcess, type ProcessIdentity } from "../base/process_identity.ts";
import type { Remain } from "../base/remains.ts";
import { QmpClient } from "../qmp/client.ts";
import type { DiskChoice } from "./disks.ts";
import type { QemuFeatures } from "./features.ts";
import { GuestEvents, type GuestWarning } from "./guest_events.ts";
import { type InspectedGuest, inspectGuest } from "./inspect.ts";
import type { GuestParams } from "./params.ts";
import { findSocketOwner } from "./process.ts";
import { removeLeftFolder } from "./guest_folder.ts";
import { quitQemu } from "./quit.ts";
import { OutgoingMigration, type RamLimits, type RamOptions, type RamProgress } from "./ram.ts";

export interface SourceGuest {
  readonly params: GuestParams;
  /** The QEMU that has the disks: the guest's own, or a domain's device model. */
  readonly qmp: QmpClient;
  readonly features: QemuFeatures;
  readonly process: ProcessIdentity;
  /** What is to be put in order here when the sender dies. */
  remain(): Remain;
  /** Aborts with the reason when the guest does what a migration cannot follow, or is gone. */
  readonly failed: AbortSignal;
  /** Whether the guest is meant to run: others may stop and start it meanwhile. */
  readonly shouldRun: boolean;
  /** One try at sending its memory. */
  outgoing(): Outgoing;
  /** Lets the guest run on if it is meant to and does not. */
  restore(): Promise<void>;
  /** The guest runs at the destination: ends it here. */
  quit(signal: AbortSignal): Promise<void>;
  /** Lets go of it; whatever it does, it goes on doing. */
  close(): Promise<void>;
}

/** Memory and device state on their way out through a local unix socket. */
export interface Outgoing extends Disposable {
  /** Remembers what `configure` will change; `remain` tells it from then on. */
  remember(signal: AbortSignal): Promise<void>;
  /** Sets the limits. Undo with `restore`. */
  configure(options: RamOptions, signal: AbortSignal): Promise<void>;
  restore(): Promise<void>;
  /** Changes limits while it goes on. */
  adjust(limits: RamLimits, signal: AbortSignal): Promise<void>;
  /** Begins to send into the socket `path`. Undo with `cancel`, also after an error. */
  start(path: string, signal: AbortSignal): Promise<void>;
  /** Waits until the guest has been stopped; when that was (ms since the epoch). */
  waitStopped(options: {
    report: (progress: RamProgress) => void;
    signal: AbortSignal;
  }): Promise<number>;
  /** The disks are equal: sends what is left. */
  finish(signal: AbortSignal): Promise<RamProgress>;
  /** Ends the sending; the guest can run on. */
  cancel(): Promise<void>;
}

export class QemuSource implements SourceGuest {
  readonly params: GuestParams;
  readonly qmp: QmpClient;
  readonly features: QemuFeatures;
  readonly process: ProcessIdentity;
  readonly #events: GuestEvents;
  #outgoing: OutgoingMigration | undefined;

  private constructor(
    qmp: QmpClient,
    options: {
      inspected: InspectedGuest;
      process: ProcessIdentity;
      events: GuestEvents;
    },
  ) {
    this.qmp = qmp;
    this.params = options.inspected.params;
    this.features = options.inspected.features;
    this.process = options.process;
    this.#events = options.events;
  }

  /**
   * Looks at the guest behind the QMP socket `path`; changes nothing.
   * @throws AgentError (kind refused) with the reason why it cannot be moved
   */
  static async open(path: string, options: {
    qemuPid: number | null;
    choice: DiskChoice;
    warn: (warning: GuestWarning) => void;
    signal: AbortSignal;
  }): Promise<QemuSource> {
    const qmp = await QmpClient.connect(path, options);
    try {
      const events = new GuestEvents(qmp, options);
      const inspected = await inspectGuest(qmp, options);
      const process = await identifyProcess(inspected.process.pid);
      events.follow(inspected.params);
      return new QemuSource(qmp, { inspected, process, events });
    } catch (error) {
      await qmp.close();
      throw error;
    }
  }

  get failed(): AbortSignal {
    return this.#events.failed;
  }

  get shouldRun(): boolean {
    return this.#events.shouldRun;
  }

  remain(): Remain {
    return {
      kind: "source_qemu",
      qmp: this.qmp.path,
      process: this.process,
      should_run: this.shouldRun,
      settings: this.#outgoing?.before ?? null,
    };
  }

  outgoing(): Outgoing {
    return this.#outgoing = new OutgoingMigration(this.qmp, this.features);
  }

  restore(): Promise<void> {
    return this.#events.restore();
  }

  async quit(signal: AbortSignal): Promise<void> {
    this.#events[Symbol.dispose]();
    await quitQemu(this.qmp, { pid: this.process.pid, signal });
    if (this.params.hypervisor === "qemu") await removeLeftFolder(this.params.qemu.argv);
  }

  async close(): Promise<void> {
    this.#events[Symbol.dispose]();
    await this.qmp.close();
  }
}

/** The process behind a QMP socket. */
export async function identifySource(
  qmpPath: string,
  qemuPid: number | null,
): Promise<ProcessIdentity> {
  return await identifyProcess(qemuPid ?? await findSocketOwner(qmpPath));
}
