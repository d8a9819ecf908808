// Keeps mirror jobs over the loss of their connections. The jobs are made to stop at an error instead of
// ending (`on-target-error: stop`): what they had not written stays marked as to be copied, and they go
// on from there over a new connection. Knows nothing of the agents, who find each other again meanwhile.
// Specification: QMP `BLOCK_JOB_ERROR`, `block-job-pause`, `block-job-resume`; docs/safety.md.
//
// What was measured (QEMU 7.2 and 10.0, packets dropped without a reset):
// - A job whose requests wait for a dead connection does not hold up the guest by itself, but whatever
//   drains block I/O then does. Once severed from outside, the requests fail at once and the job stops.
// - QEMU's NBD client connects again by itself at the next request, also with `reconnect-delay` 0,
//   which is left at that: with more than 0 requests wait for that time, and drains with them. It
//   connects in the background: the requests that find no connection yet fail, and so the job stops
//   again a few times until there is one.
// - A server that carries out what it got over the old connection after what came over the new one
//   makes the images differ. So jobs may go on only when nothing of the old can come any more: what the
//   source had unsent is thrown away (`sever`), and the destination's server has been stopped, which
//   waits for its requests to be done, and started again (Exports). Hence the rule below about known
//   connections.

import { delay } from "../base/deadline.ts";
import { AgentError, quote } from "../base/errors.ts";
import { type QmpClient, QmpCommandError } from "../qmp/client.ts";
import type { BlockJobInfo } from "../qmp/commands.ts";
import type { EventSubscription } from "../qmp/events.ts";
import type { NbdConnections } from "./nbd_connections.ts";

/** How long the jobs may stop again and again before it is the destination's disk that is to blame. */
const PATIENCE_MS = 10_000;
const FIRST_RETRY_MS = 50;
const MAX_RETRY_MS = 1000;
/** What the jobs may take to stop once their connections are gone. */
const SUSPEND_TIMEOUT_MS = 5000;
const STOP_POLL_MS = 20;

/** A job's present series of stops. */
interface Trouble {
  sinceMs: number;
  lastMs: number;
  retryMs: number;
}

export class MirrorKeeper implements Disposable {
  readonly #qmp: QmpClient;
  readonly #disks: ReadonlyMap<string, string>;
  readonly #jobs: readonly string[];
  readonly #connections: NbdConnections;
  readonly #errors: EventSubscription;
  readonly #disposed = new AbortController();
  readonly #troubles = new Map<string, Trouble>();
  /** Connections over which something may have been written since the server was started. */
  #known = new Set<string>();
  #suspended = false;
  #lost = new AbortController();

  /** `disks`: by the id of its mirror job, the name of each disk. */
  constructor(
    qmp: QmpClient,
    { disks, connections }: { disks: ReadonlyMap<string, string>; connections: NbdConnections },
  ) {
    this.#qmp = qmp;
    this.#disks = disks;
    this.#jobs = [...disks.keys()];
    this.#connections = connections;
    this.#errors = qmp.subscribe("BLOCK_JOB_ERROR");
  }

  /** Call when the jobs are connected. @throws AgentError when connections cannot be seen */
  async begin(): Promise<void> {
    this.#known = await this.#connections.list();
    if (this.#known.size < this.#jobs.length) {
      throw new AgentError(
        "cannot_reconnect",
        `Cannot see QEMU's connections to the destination's NBD server: ${this.#jobs.length} ` +
          `are expected, ${this.#known.size} are there`,
        { side: "source", hint: "leave --reconnect out, or use --nbd tunnel" },
      );
    }
    void this.#follow();
  }

  /**
   * Aborts when jobs have stopped that may go on only after `suspend` and `resume` (code
   * `mirror_lost`), or that cannot go on at all (`mirror_failed`). A new one after each `resume`.
   */
  get lost(): AbortSignal {
    return this.#lost.signal;
  }

  /**
   * Ends the connections and stops the jobs; the guest runs on and what it writes is remembered. Works
   * also while QEMU's main loop waits for one of the connections. Can be called twice.
   */
  async suspend(): Promise<void> {
    this.#suspended = true;
    await this.#connections.sever();
    const signal = AbortSignal.timeout(SUSPEND_TIMEOUT_MS);
    await Promise.all(
      this.#jobs.map((device) => this.#unlessSo("block-job-pause", device, signal)),
    );
    while ((await this.#queryJobs(signal)).some((job) => !isStopped(job))) {
      await delay(STOP_POLL_MS, signal); // a job that was stopped by an error sends no second event
    }
    await this.#connections.sever(); // one may have come about meanwhile
  }

  /**
   * Lets the jobs go on. The destination must have stopped its server since `suspend` and started it
   * again at the same address. Resolves at once: a job connects at the next thing that it has to copy,
   * and what then fails is told by the new `lost`.
   */
  async resume(signal: AbortSignal): Promise<void> {
    this.#known = new Set();
    this.#troubles.clear();
    this.#lost = new AbortController();
    this.#suspended = false;
    await Promise.all(
      this.#jobs.map((device) => this.#unlessSo("block-job-resume", device, signal)),
    );
  }

  [Symbol.dispose](): void {
    this.#disposed.abort();
    this.#errors[Symbol.dispose]();
  }

  async #follow(): Promise<void> {
    const signal = AbortSignal.any([this.#disposed.signal, this.#qmp.ended]);
    while (!signal.aborted) {
      try {
        const { data } = await this.#errors.next(signal);
        const device = String(data.device);
        if (this.#jobs.includes(device) && !this.#suspended) await this.#retry(device, signal);
      } catch (error) {
        if (!signal.aborted) this.#lost.abort(error);
      }
    }
  }

  /** Lets a stopped job go on if that is safe and of use. */
  async #retry(device: string, signal: AbortSignal): Promise<void> {
    const trouble = this.#note(device);
    await this.#checkConnections();
    const job = (await this.#queryJobs(signal)).find((candidate) => candidate.device === device);
    if (!job || !isStopped(job)) return; // one event a failed request: it goes on already
    const patient = trouble.lastMs - trouble.sinceMs < PATIENCE_MS;
    if (job["io-status"] === "nospace" || !patient) {
      const reason = job["io-status"] === "nospace" ? "no space left" : "input/output error";
      throw new AgentError(
        "mirror_failed",
        `The mirror of disk ${
          quote(this.#disks.get(device)!)
        } stopped: ${reason} at the destination`,
        { side: "source" },
      );
    }
    await delay(trouble.retryMs, signal);
    trouble.retryMs = Math.min(2 * trouble.retryMs, MAX_RETRY_MS);
    await this.#checkConnections();
    if (this.#suspended) return;
    await this.#unlessSo("block-job-resume", device, signal);
    await delay(FIRST_RETRY_MS, signal);
    await this.#checkConnections(); // to know the one that it has made, if it has
  }

  /** One that was known and is gone may have left something behind that the server still carries out. */
  async #checkConnections(): Promise<void> {
    const up = await this.#connections.list();
    if (this.#suspended) return;
    if ([...this.#known].every((id) => up.has(id))) {
      this.#known = up;
      return;
    }
    throw new AgentError(
      "mirror_lost",
      "A mirror has lost its connection to the destination's NBD server",
      { kind: "link", side: "source" },
    );
  }

  #note(device: string): Trouble {
    const now = performance.now();
    let trouble = this.#troubles.get(device);
    if (!trouble || now - trouble.lastMs > PATIENCE_MS) {
      trouble = { sinceMs: now, lastMs: now, retryMs: FIRST_RETRY_MS };
      this.#troubles.set(device, trouble);
    }
    trouble.lastMs = now;
    return trouble;
  }

  /** QEMU refuses to pause a job that is paused, and to resume one that is not. */
  async #unlessSo(
    command: "block-job-pause" | "block-job-resume",
    device: string,
    signal: AbortSignal,
  ): Promise<void> {
    try {
      await this.#qmp.execute(command, { device }, { signal });
    } catch (error) {
      if (!(error instanceof QmpCommandError) || !/paused/.test(error.message)) throw error;
    }
  }

  async #queryJobs(signal: AbortSignal): Promise<BlockJobInfo[]> {
    const jobs = await this.#qmp.execute("query-block-jobs", {}, { signal });
    return jobs.filter(({ device }) => this.#jobs.includes(device));
  }
}

/** By an error or on demand; a ready job's status is then `standby`. */
function isStopped({ status }: BlockJobInfo): boolean {
  return status !== "running" && status !== "ready";
}
