// Keeps mirror jobs over the loss of their connections. The jobs are made to stop at an error instead of
// ending (`on-target-error: stop`): what they had not written stays marked as to be copied, and they go
// on from there over a new connection. Knows nothing of the agents, who find each other again meanwhile.
// Specification: QMP `BLOCK_JOB_ERROR`, `block-job-pause`, `block-job-resume`; docs/safety.md.
//
// What was measured (QEMU 7.2 and 10.0, packets dropped without a reset):
// - A job whose requests wait for a dead connection does not hold up the guest by itself, but whatever
//   drains block I/O then does. Once severed from outside, the requests fail at once and the job stops.
// - QEMU's NBD client connects again by itself at the next request. A request that finds its connection
//   broken waits for the next one for as long as `reconnect-delay`; after that time, or with 0, requests
//   fail until one has come about in the background, and the job stops again a few times. QEMU flushes
//   every node when it stops the guest: on a node without a connection that fails, and with it the
//   migration of the memory (7.2, status `failed` without a word of why). So the delay is one second,
//   and `resume` waits for the connections of the jobs that had requests on their way.
// - `suspend` took 1.0 to 1.4 s, which is that delay, and `resume` 0.5 to 2.0 s: an attempt to connect
//   that has failed is repeated after one second, then two. The guest's longest stall was below 0.1 s
//   in both phases on an idle machine, with 2.5 s in which nobody had noticed the cut.
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
/** Of the NBD nodes: long enough to connect over a link that is there, short for what waits for a dead one. */
export const RECONNECT_DELAY_S = 1;
const FIRST_RETRY_MS = 50;
const MAX_RETRY_MS = 1000;
/** What the jobs may take to stop once their connections are gone. */
const SUSPEND_TIMEOUT_MS = 5000;
const POLL_MS = 20;
/** So long no job may have stopped again before they are taken to go on. */
const STEADY_MS = 200;

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
  /** Jobs that an error has stopped: they have something to copy, and so will connect. */
  readonly #interrupted = new Set<string>();
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
   * `mirror_lost`), or that cannot go on at all (`mirror_failed`); `resume` makes a new one then.
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
    await this.#all("block-job-pause", signal);
    for (;;) {
      await this.#connections.sever(); // also those that requests on their way would go on over
      if ((await this.#queryJobs(signal)).every(isStopped)) return;
      await delay(POLL_MS, signal); // a job that was stopped by an error sends no second event
    }
  }

  /**
   * Lets the jobs go on. The destination must have stopped its server since `suspend` and started it
   * again at the same address. Resolves when those that had something on its way are connected; the
   * others connect when they have something to copy.
   * @throws the reason of `lost`. Cancel it before `suspend` is called again
   */
  async resume(stop: AbortSignal): Promise<void> {
    this.#known = new Set();
    this.#troubles.clear();
    if (this.#lost.signal.aborted) this.#lost = new AbortController();
    this.#suspended = false;
    const signal = AbortSignal.any([stop, this.#lost.signal]);
    await this.#all("block-job-resume", signal);
    for (let steadyMs = 0; steadyMs < STEADY_MS; steadyMs += POLL_MS) {
      const { size } = await this.#checkConnections();
      const stopped = (await this.#queryJobs(signal)).some(isStopped);
      if (stopped || size < this.#interrupted.size) steadyMs = 0;
      await delay(POLL_MS, signal); // QEMU tells of no connection
    }
    this.#interrupted.clear();
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
        if (!this.#jobs.includes(device)) continue;
        this.#interrupted.add(device);
        if (!this.#suspended) await this.#retry(device, signal);
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
  async #checkConnections(): Promise<ReadonlySet<string>> {
    const up = await this.#connections.list();
    if (this.#suspended) return up;
    if ([...this.#known].every((id) => up.has(id))) return this.#known = up;
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
  async #all(command: "block-job-pause" | "block-job-resume", signal: AbortSignal): Promise<void> {
    for (const device of this.#jobs) await this.#unlessSo(command, device, signal);
  }

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
