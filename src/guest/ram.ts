// QEMU's own migration of memory and device state, on either side, through a local unix socket.
// Knows nothing of what carries the bytes between the sockets.
// Specification: QMP `migrate`, `migrate-incoming`, `migrate-continue`; QEMU's docs/devel/migration.

import { AgentError } from "../base/errors.ts";
import { delay } from "../base/deadline.ts";
import { type QmpClient, QmpCommandError } from "../qmp/client.ts";
import type { CapabilityStatus, MigrationInfo } from "../qmp/commands.ts";
import type { EventSubscription } from "../qmp/events.ts";
import type { QemuFeatures } from "./features.ts";

const PROGRESS_INTERVAL_MS = 500;
const CANCEL_TIMEOUT_MS = 10_000;
/** QEMU's default of 128 MiB/s is a limit from 2010; this one is none. */
const UNLIMITED_BYTES_PER_S = 2 ** 40;

/** Capabilities that this program uses when both QEMUs have them, by the side that sets them. */
export const SOURCE_CAPABILITIES = ["events", "return-path", "pause-before-switchover"] as const;
export const DESTINATION_CAPABILITIES = ["events", "return-path", "late-block-activate"] as const;

export interface RamOptions {
  /** Bytes per second; 0 for no limit. */
  bandwidthBytesPerS: number;
  downtimeLimitMs: number | null;
  autoConverge: boolean;
}

/** Bytes per second, 0 for no limit; null leaves a limit as it is. */
export type RamLimits = { bandwidthBytesPerS: number | null; downtimeLimitMs: number | null };

/** The parameters behind them. */
const LIMITS = ["max-bandwidth", "downtime-limit"] as const;

/** What `configure` changes, as it was before. */
export interface MigrationSettings {
  capabilities: CapabilityStatus[];
  parameters: Record<string, number>;
}

export interface RamProgress {
  transferredBytes: number;
  remainingBytes: number;
  totalBytes: number;
  rateBytesPerS: number;
  iteration: number;
  expectedDowntimeMs: number | null;
}

/** The source's side. One object, one try. */
export class OutgoingMigration implements Disposable {
  readonly #qmp: QmpClient;
  readonly #features: QemuFeatures;
  readonly #events: EventSubscription;
  readonly #stops: EventSubscription;
  #before: MigrationSettings | undefined;
  #started = false;

  constructor(qmp: QmpClient, features: QemuFeatures) {
    this.#qmp = qmp;
    this.#features = features;
    this.#events = qmp.subscribe("MIGRATION");
    this.#stops = qmp.subscribe("STOP");
  }

  /** Remembers what `configure` will change. */
  async remember(signal: AbortSignal): Promise<void> {
    const [capabilities, current] = await Promise.all([
      this.#qmp.execute("query-migrate-capabilities", {}, { signal }),
      this.#qmp.execute("query-migrate-parameters", {}, { signal }),
    ]);
    this.#before = {
      capabilities,
      parameters: Object.fromEntries(
        LIMITS.map((name) => [name, Number(current[name])]),
      ),
    };
  }

  /** Sets capabilities and limits. Undo with `restore`. */
  async configure(options: RamOptions, signal: AbortSignal): Promise<void> {
    const wanted = new Set<string>(SOURCE_CAPABILITIES);
    if (options.autoConverge) wanted.add("auto-converge");
    await setCapabilities(this.#qmp, { wanted, known: this.#features.capabilities, signal });
    await this.#qmp.execute("migrate-set-parameters", limitParameters(options), { signal });
  }

  /** What `configure` has changed, as it was; null while it has changed nothing. */
  get before(): MigrationSettings | null {
    return this.#before ?? null;
  }

  /** Changes limits while it goes on; what is left out stays. Undo with `restore`. */
  async adjust(limits: RamLimits, signal: AbortSignal): Promise<void> {
    await this.#qmp.execute("migrate-set-parameters", limitParameters(limits), { signal });
  }

  /** Puts capabilities and parameters back as `configure` found them. */
  async restore(): Promise<void> {
    if (!this.#before) return;
    await restoreSettings(this.#qmp, {
      settings: this.#before,
      signal: AbortSignal.timeout(CANCEL_TIMEOUT_MS),
    });
  }

  /** Begins to send into the unix socket `path`. Undo with `cancel`, also after an error. */
  async start(path: string, signal: AbortSignal): Promise<void> {
    this.#started = true;
    await this.#qmp.execute("migrate", { uri: `unix:${path}` }, { signal });
  }

  /**
   * Waits until all but the last pages are sent and QEMU has stopped the guest. Gives the time of
   * the stop by QEMU's clock (ms since the epoch).
   * @throws AgentError `ram_failed`
   */
  async waitStopped(options: {
    report: (progress: RamProgress) => void;
    signal: AbortSignal;
  }): Promise<number> {
    const { signal } = options;
    const stop = new AbortController();
    const either = AbortSignal.any([signal, stop.signal]);
    const polling = this.#pollProgress(options.report, either).catch((error) => stop.abort(error));
    try {
      await this.#waitStatus("pre-switchover", either);
    } finally {
      stop.abort();
      await polling;
    }
    const { status } = await this.#qmp.execute("query-status", {}, { signal });
    if (status === "running") throw ramFailure("the guest runs on in 'pre-switchover'");
    return this.#stops.lastSeenMs ?? Date.now(); // it was paused before the migration
  }

  /** Sends what is left; waits until the source is done. @throws AgentError `ram_failed` */
  async finish(signal: AbortSignal): Promise<RamProgress> {
    await this.#qmp.execute("migrate-continue", { state: "pre-switchover" }, { signal });
    await this.#waitStatus("completed", signal);
    return progressOf(await this.#qmp.execute("query-migrate", {}, { signal }));
  }

  /** Ends the sending (`cancelOutgoing`). */
  async cancel(): Promise<void> {
    if (!this.#started) return;
    await cancelOutgoing(this.#qmp, {
      canYank: this.#features.commands.has("yank"),
      signal: AbortSignal.timeout(CANCEL_TIMEOUT_MS),
    });
  }

  [Symbol.dispose](): void {
    this.#events[Symbol.dispose]();
    this.#stops[Symbol.dispose]();
  }

  async #waitStatus(wanted: string, signal: AbortSignal): Promise<void> {
    // Other statuses come and go between (`device`, `wait-unplug`, ...): not ours to judge.
    const event = await this.#events.next(
      signal,
      ({ data }) => [wanted, "failed", "cancelled"].includes(String(data.status)),
    );
    if (event.data.status === wanted) return;
    const info = await this.#qmp.execute("query-migrate", {}, { signal });
    throw ramFailure(info["error-desc"] ?? `status '${event.data.status}'`);
  }

  async #pollProgress(
    report: (progress: RamProgress) => void,
    signal: AbortSignal,
  ): Promise<void> {
    try {
      while (!signal.aborted) {
        const info = await this.#qmp.execute("query-migrate", {}, { signal });
        if (info.ram) report(progressOf(info));
        await delay(PROGRESS_INTERVAL_MS, signal); // QEMU has no event for progress
      }
    } catch (error) {
      if (!signal.aborted && !this.#qmp.ended.aborted) throw error;
    }
  }
}

/**
 * Ends the sending of the memory, if there is one, and waits for its end; false when there is none.
 * `yank` first: `migrate_cancel` alone waits for block I/O and sockets that a dead link will never
 * serve, with the guest frozen.
 */
export async function cancelOutgoing(
  qmp: QmpClient,
  { canYank, signal }: { canYank: boolean; signal: AbortSignal },
): Promise<boolean> {
  using events = qmp.subscribe("MIGRATION");
  if (!await isMigrating(qmp, signal)) return false;
  if (canYank) {
    try {
      const args = { instances: [{ type: "migration" }] };
      await qmp.execute("yank", args, { signal, outOfBand: true });
    } catch (error) {
      // No such instance: the migration ended by itself meanwhile.
      if (!(error instanceof QmpCommandError)) throw error;
    }
  }
  await qmp.execute("migrate_cancel", {}, { signal });
  await events.next(signal, ({ data }) => ENDED.has(String(data.status)));
  return true;
}

/** Whether a migration goes on in that QEMU, whosever it is. */
export async function isMigrating(qmp: QmpClient, signal: AbortSignal): Promise<boolean> {
  const { status = "none" } = await qmp.execute("query-migrate", {}, { signal });
  return !ENDED.has(status);
}

const ENDED: ReadonlySet<string> = new Set(["completed", "failed", "cancelled", "none"]);

/** Puts capabilities and parameters back; for a QEMU that sends no memory any more. */
export async function restoreSettings(
  qmp: QmpClient,
  { settings, signal }: { settings: MigrationSettings; signal: AbortSignal },
): Promise<void> {
  const { capabilities, parameters } = settings;
  await qmp.execute("migrate-set-capabilities", { capabilities }, { signal });
  await qmp.execute("migrate-set-parameters", parameters, { signal });
}

/** The destination's side of a QEMU that was started with `-incoming defer`. */
export class IncomingMigration implements Disposable {
  readonly #qmp: QmpClient;
  readonly #events: EventSubscription;

  constructor(qmp: QmpClient) {
    this.#qmp = qmp;
    this.#events = qmp.subscribe("MIGRATION");
  }

  /** Makes QEMU listen on the unix socket `path`; it can be connected to once this is done. */
  async listen(path: string, options: {
    features: QemuFeatures;
    signal: AbortSignal;
  }): Promise<void> {
    const { features: { capabilities: known }, signal } = options;
    const wanted = new Set<string>(DESTINATION_CAPABILITIES);
    await setCapabilities(this.#qmp, { wanted, known, signal });
    await this.#qmp.execute("migrate-incoming", { uri: `unix:${path}` }, { signal });
  }

  /** Waits until everything has been loaded. @throws AgentError `ram_failed` */
  async waitLoaded(signal: AbortSignal): Promise<void> {
    const { data } = await this.#events.next(
      signal,
      ({ data: { status } }) => status === "completed" || status === "failed",
    );
    if (data.status === "completed") return;
    const info = await this.#qmp.execute("query-migrate", {}, { signal });
    throw ramFailure(info["error-desc"] ?? "QEMU gave no reason; see its log", "destination");
  }

  [Symbol.dispose](): void {
    this.#events[Symbol.dispose]();
  }
}

function limitParameters(
  { bandwidthBytesPerS, downtimeLimitMs }: RamLimits,
): Record<string, number> {
  const bandwidth = bandwidthBytesPerS === 0 ? UNLIMITED_BYTES_PER_S : bandwidthBytesPerS;
  return {
    ...(bandwidth === null ? {} : { "max-bandwidth": bandwidth }),
    ...(downtimeLimitMs === null ? {} : { "downtime-limit": downtimeLimitMs }),
  };
}

async function setCapabilities(qmp: QmpClient, options: {
  wanted: ReadonlySet<string>;
  known: ReadonlySet<string>;
  signal: AbortSignal;
}): Promise<void> {
  const capabilities = [...options.wanted]
    .filter((capability) => options.known.has(capability))
    .map((capability) => ({ capability, state: true }));
  await qmp.execute("migrate-set-capabilities", { capabilities }, { signal: options.signal });
}

function progressOf(info: MigrationInfo): RamProgress {
  return {
    transferredBytes: info.ram?.transferred ?? 0,
    remainingBytes: info.ram?.remaining ?? 0,
    totalBytes: info.ram?.total ?? 0,
    rateBytesPerS: (info.ram?.mbps ?? 0) * 1e6 / 8,
    iteration: info.ram?.["dirty-sync-count"] ?? 0,
    expectedDowntimeMs: info["expected-downtime"] ?? null,
  };
}

function ramFailure(reason: string, side: "source" | "destination" = "source"): AgentError {
  return new AgentError("ram_failed", `The migration of the memory failed: ${reason}`, { side });
}
