// The source's side of the disks: one mirror job per disk to the destination's NBD server, all at
// once. Knows nothing of how the exports came to be.
// Specification: QMP `blockdev-mirror`, `block-job-cancel`, `job-dismiss`; docs/how-it-works.md.

import { AgentError, quote } from "../base/errors.ts";
import { delay } from "../base/deadline.ts";
import { type QmpClient, QmpCommandError } from "../qmp/client.ts";
import type { EventSubscription, QmpEvent } from "../qmp/events.ts";
import type { QemuFeatures } from "./features.ts";
import { MirrorKeeper, RECONNECT_DELAY_S } from "./mirror_keeper.ts";
import { cutOffNodes, endJob, mirrorNames } from "./mirror_traces.ts";
import { type NbdConnections, waitConnected } from "./nbd_connections.ts";
import type { Disk } from "./params.ts";

/** QEMU's default of 64 KiB makes a guest that writes here and there leave 20 MiB for the pause. */
const GRANULARITY_BYTES = 4096;
const PROGRESS_INTERVAL_MS = 500;
/** What an abandoned job may take to end before this program stops waiting and says so. */
const ABANDON_TIMEOUT_MS = 10_000;
const RETRY_MS = 100;

export interface MirrorProgress {
  disk: Disk;
  doneBytes: number;
  totalBytes: number;
  ready: boolean;
}

/** Where one of the destination's NBD servers is reached from the source. */
export type NbdServer = { type: "inet"; host: string; port: number } | {
  type: "unix";
  path: string;
};

export interface MirrorOptions {
  /** Id of the credentials (nbd_keys.ts); null for a connection that is not encrypted by QEMU. */
  tlsCreds: string | null;
  targets: readonly { disk: Disk; nbd: NbdServer; export: string }[];
  /** Bytes per second for each disk at first; 0 for no limit. */
  speedBytesPerS: number;
  /** Above 0 the mirrors live on when their connections are lost: `suspend` and `resume`. */
  reconnectMs: number;
  /**
   * The connections that QEMU makes to the servers. Without them one that cannot connect cannot be
   * stopped, and no mirror can live on.
   */
  connections?: NbdConnections;
  /** What QEMU may take to connect to one export; left out where its guest stands still meanwhile. */
  connectTimeoutMs?: number;
  features: QemuFeatures;
}

interface Mirror {
  disk: Disk;
  nbd: NbdServer;
  jobId: string;
  nodeName: string;
  export: string;
  /** What exists and so must be taken away again. */
  has: { node: boolean; job: boolean };
  ready: boolean;
  copiedBytes: number;
  totalBytes: number;
}

export class MirrorSet implements Disposable {
  readonly #qmp: QmpClient;
  readonly #options: MirrorOptions;
  readonly #mirrors: Mirror[];
  readonly #events: EventSubscription;
  readonly #keeper: MirrorKeeper | null;
  #speedBytesPerS: number;

  constructor(qmp: QmpClient, options: MirrorOptions) {
    this.#qmp = qmp;
    this.#options = options;
    this.#speedBytesPerS = options.speedBytesPerS;
    this.#mirrors = options.targets.map(({ export: name, ...target }, index) => ({
      ...target,
      export: name,
      ...mirrorNames(index),
      has: { node: false, job: false },
      ready: false,
      copiedBytes: 0,
      totalBytes: target.disk.virtual_size_bytes,
    }));
    this.#events = qmp.subscribe("BLOCK_JOB_READY", "BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED");
    this.#keeper = options.reconnectMs > 0 ? this.#keep(options.connections) : null;
  }

  /**
   * Connects to every export and starts every job. Undo with `abandon`, also after an error. Cancelling
   * also ends an attempt of QEMU to connect, during which its guest stands still.
   * @throws AgentError `nbd_unreachable` when QEMU is not connected soon
   */
  async start(signal: AbortSignal): Promise<void> {
    for (const mirror of this.#mirrors) await this.#connect(mirror, signal);
    await waitForAll(this.#mirrors.map((mirror) => this.#startJob(mirror, signal)));
    await this.#keeper?.begin();
  }

  /**
   * The link to the destination is lost: breaks the connections and stops the jobs, which keep what they
   * have copied. The guest runs on. For mirrors that reconnect; can be called twice.
   */
  async suspend(): Promise<void> {
    await this.#keeper?.suspend();
  }

  /**
   * After `suspend`: the jobs go on where they were. Safe only when the destination has stopped its NBD
   * server since then and serves anew at the same address (`Exports`): what came over the old
   * connections must not be written after what comes over the new ones (seen: differing images).
   */
  async resume(signal: AbortSignal): Promise<void> {
    await this.#keeper?.resume(signal);
  }

  /**
   * Waits until everything has been copied once. Call `report` gets every disk's progress now and
   * then. Can be called again after `resume`.
   * @throws AgentError `mirror_failed` when a job ended instead, `mirror_lost` when mirrors that
   *   reconnect have lost a connection: then `suspend` and `resume`
   */
  async waitReady(options: {
    report: (progress: MirrorProgress[]) => void;
    signal: AbortSignal;
  }): Promise<void> {
    const { report, signal } = options;
    const stop = new AbortController();
    const either = this.#unlessLost(AbortSignal.any([signal, stop.signal]));
    const polling = this.#pollProgress(report, either).catch((error) => stop.abort(error));
    try {
      while (this.#mirrors.some((mirror) => !mirror.ready)) {
        const event = await this.#events.next(either);
        const mirror = this.#mirrorOf(event.data.device);
        if (!mirror) continue; // another job of this QEMU
        if (event.event !== "BLOCK_JOB_READY") throw await this.#failure(mirror, event.data.error);
        mirror.ready = true;
      }
    } finally {
      stop.abort();
      await polling;
    }
    report(await this.progress(signal));
  }

  /**
   * Rejects as soon as a mirror ends that should go on, or has lost its connection (`waitReady`);
   * resolves when `stop` aborts.
   */
  async watch(stop: AbortSignal): Promise<void> {
    using events = this.#qmp.subscribe("BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED");
    let ended: QmpEvent;
    try {
      ended = await events.next(
        this.#unlessLost(stop),
        ({ data }) => this.#mirrorOf(data.device) !== undefined,
      );
    } catch (error) {
      if (stop.aborted) return;
      throw error;
    }
    throw await this.#failure(this.#mirrorOf(ended.data.device)!, ended.data.error);
  }

  async progress(signal: AbortSignal): Promise<MirrorProgress[]> {
    const jobs = await this.#qmp.execute("query-block-jobs", {}, { signal });
    for (const mirror of this.#mirrors) {
      const job = jobs.find((candidate) => candidate.device === mirror.jobId);
      if (!job) continue;
      mirror.copiedBytes = job.offset;
      mirror.totalBytes = job.len;
    }
    return this.lastProgress;
  }

  /** Progress as it was last known, without asking QEMU. */
  get lastProgress(): MirrorProgress[] {
    return this.#mirrors.map(({ disk, copiedBytes: doneBytes, totalBytes, ready }) => ({
      disk,
      doneBytes,
      totalBytes,
      ready,
    }));
  }

  /**
   * The guest has stopped: copies what is left and ends every mirror with source and target equal.
   * On a ready mirror `block-job-cancel` without `force` is the clean end; `block-job-complete`
   * would move the source onto the remote disk.
   * @throws AgentError `mirror_failed` when a job ended with an error, `mirror_lost` when a
   *   connection was lost
   */
  async finish(stop: AbortSignal): Promise<void> {
    const signal = this.#unlessLost(stop);
    // The guest waits now: a limit that spared the network would only make its pause longer.
    if (this.#speedBytesPerS > 0) await this.setSpeed(0, signal);
    await Promise.all(this.#mirrors.map(({ jobId }) => this.#end(jobId, signal)));
    const ending = new Set(this.#mirrors);
    while (ending.size > 0) {
      const { event, data } = await this.#events.next(signal);
      const mirror = this.#mirrorOf(data.device);
      if (!mirror || event === "BLOCK_JOB_READY") continue;
      const whole = event === "BLOCK_JOB_COMPLETED" && data.error === undefined &&
        data.offset === data.len;
      if (!whole) throw await this.#failure(mirror, data.error);
      mirror.copiedBytes = mirror.totalBytes = Number(data.offset);
      ending.delete(mirror);
    }
    await waitForAll(this.#mirrors.map((mirror) => this.#remove(mirror, signal)));
  }

  /** What each disk is limited to, in bytes per second; 0: no limit. */
  get speedBytesPerS(): number {
    return this.#speedBytesPerS;
  }

  /** Limits each disk to so many bytes a second from now on; 0: no limit. */
  async setSpeed(bytesPerS: number, signal: AbortSignal): Promise<void> {
    this.#speedBytesPerS = bytesPerS;
    await Promise.all(
      this.#mirrors.map(({ jobId: device }) =>
        this.#qmp.execute("block-job-set-speed", { device, speed: bytesPerS }, { signal })
      ),
    );
  }

  /** Breaks the connections (mirror_traces.ts). The jobs then fail; `abandon` tidies up. */
  async cutOff(signal = AbortSignal.timeout(ABANDON_TIMEOUT_MS)): Promise<void> {
    if (!this.#options.features.commands.has("yank")) return;
    const nodes = this.#mirrors.filter((mirror) => mirror.has.node).map((m) => m.nodeName);
    await cutOffNodes(this.#qmp, { nodes, signal });
  }

  /** Ends every mirror at once, whatever its state, and takes away its node. The guest goes on. */
  async abandon(): Promise<void> {
    const signal = AbortSignal.timeout(ABANDON_TIMEOUT_MS);
    const cut = this.cutOff(signal);
    const ends = this.#mirrors.map((mirror) => this.#abandonOne(mirror, signal));
    await waitForAll([cut, ...ends]);
  }

  [Symbol.dispose](): void {
    this.#keeper?.[Symbol.dispose]();
    this.#events[Symbol.dispose]();
  }

  #keep(connections: NbdConnections | undefined): MirrorKeeper {
    if (!connections) throw new Error("mirrors live on only with their connections at hand");
    const disks = new Map(this.#mirrors.map(({ jobId, disk }) => [jobId, disk.name]));
    return new MirrorKeeper(this.#qmp, { disks, connections });
  }

  async #connect(mirror: Mirror, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    const { connections, connectTimeoutMs: timeoutMs } = this.#options;
    const what = `for disk ${quote(mirror.disk.name)}`;
    await waitConnected(this.#addNode(mirror), { what, connections, timeoutMs, signal });
  }

  async #addNode(mirror: Mirror): Promise<void> {
    const { tlsCreds } = this.#options;
    const { nbd } = mirror;
    await this.#qmp.execute("blockdev-add", {
      driver: "nbd",
      "node-name": mirror.nodeName,
      server: nbd.type === "inet" ? { ...nbd, port: String(nbd.port) } : nbd,
      ...(tlsCreds === null ? {} : { "tls-creds": tlsCreds }),
      export: mirror.export,
      ...(this.#keeper ? { "reconnect-delay": RECONNECT_DELAY_S } : {}),
      // A thin disk stays thin: zeroes are sent as "unmap", not as data.
      discard: "unmap",
      "detect-zeroes": "unmap",
    });
    mirror.has.node = true;
  }

  async #startJob(mirror: Mirror, signal: AbortSignal): Promise<void> {
    const speedBytesPerS = this.#speedBytesPerS;
    signal.throwIfAborted();
    await this.#qmp.execute("blockdev-mirror", {
      "job-id": mirror.jobId,
      device: mirror.disk.node_name,
      target: mirror.nodeName,
      sync: "full",
      "auto-dismiss": false,
      ...(this.#keeper ? { "on-target-error": "stop" } : {}),
      granularity: GRANULARITY_BYTES,
      ...(speedBytesPerS > 0
        ? { speed: speedBytesPerS, "buf-size": bufferBytes(speedBytesPerS) }
        : {}),
    });
    mirror.has.job = true;
    signal.throwIfAborted();
  }

  /** `signal`, or the keeper's word that a connection is lost. */
  #unlessLost(signal: AbortSignal): AbortSignal {
    return this.#keeper ? AbortSignal.any([signal, this.#keeper.lost]) : signal;
  }

  /** Cleanly. A job that has stopped at an error, and is about to go on, refuses that. */
  async #end(device: string, signal: AbortSignal): Promise<void> {
    while (true) {
      try {
        await this.#qmp.execute("block-job-cancel", { device }, { signal });
        return;
      } catch (error) {
        const paused = error instanceof QmpCommandError && /paused/.test(error.message);
        if (!this.#keeper || !paused) throw error;
      }
      await delay(RETRY_MS, signal);
    }
  }

  async #abandonOne(mirror: Mirror, signal: AbortSignal): Promise<void> {
    mirror.has.job = await endJob(this.#qmp, { id: mirror.jobId, signal });
    await this.#remove(mirror, signal);
  }

  async #remove(mirror: Mirror, signal: AbortSignal): Promise<void> {
    if (mirror.has.job) {
      await this.#qmp.execute("job-dismiss", { id: mirror.jobId }, { signal });
      mirror.has.job = false;
    }
    if (mirror.has.node) {
      signal.throwIfAborted();
      mirror.has.node = false; // a wait that is cancelled does not stop the command
      try {
        await this.#qmp.execute("blockdev-del", { "node-name": mirror.nodeName }, { signal });
      } catch (error) {
        if (error instanceof QmpCommandError) mirror.has.node = true;
        throw error;
      }
    }
  }

  #mirrorOf(device: unknown): Mirror | undefined {
    return this.#mirrors.find((mirror) => mirror.jobId === device);
  }

  async #failure(mirror: Mirror, reason: unknown): Promise<AgentError> {
    const jobs = await this.#qmp.execute("query-jobs");
    const text = reason ?? jobs.find(({ id }) => id === mirror.jobId)?.error ?? "it was cancelled";
    return new AgentError(
      "mirror_failed",
      `The mirror of disk ${quote(mirror.disk.name)} ended: ${text}`,
      { side: "source" },
    );
  }

  async #pollProgress(
    report: (progress: MirrorProgress[]) => void,
    signal: AbortSignal,
  ): Promise<void> {
    try {
      while (!signal.aborted) {
        report(await this.progress(signal));
        await delay(PROGRESS_INTERVAL_MS, signal); // QEMU has no event for progress
      }
    } catch (error) {
      if (!signal.aborted && !this.#qmp.ended.aborted) throw error;
    }
  }
}

/** Throws the first failure, once nothing goes on any more. */
async function waitForAll(works: Promise<void>[]): Promise<void> {
  const failed = (await Promise.allSettled(works)).find((result) => result.status === "rejected");
  if (failed) throw failed.reason;
}

/** QEMU copies a whole buffer (16 MiB) before it looks at the limit again: a tenth of a second's worth. */
function bufferBytes(speedBytesPerS: number): number {
  return Math.floor(Math.min(2 ** 24, Math.max(2 ** 20, speedBytesPerS / 10)));
}
