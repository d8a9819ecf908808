// The memory of a Xen domain on its way out: stands between `xl migrate` and the socket that carries
// its bytes to the other host, and between libxl and the device model. Two things are held back:
// - libxl's way to the device model, from the first page on, until the mirrors have ended, if there are
//   any. libxl would make the images inactive as soon as the domain is suspended, and a mirror that has
//   something left then aborts the device model, and the guest is lost (seen with QEMU 7.2).
// - xl's "cleared to unpause", for ever: who owns the guest is decided by the agents, not by xl.
// Specification: docs/xen.md, "The switchover".

import { abortable, delay } from "../base/deadline.ts";
import { AgentError, toAgentError } from "../base/errors.ts";
import type { RamLimits, RamOptions, RamProgress } from "../guest/ram.ts";
import type { Outgoing } from "../guest/source.ts";
import type { QmpClient } from "../qmp/client.ts";
import { BANNER, PERMISSION, readMessage, READY, REPORT, writeAll } from "./conversation.ts";
import { type DomainIdentity, libxlSocket } from "./domain.ts";
import { checkUnchanged, type DiskUse } from "./domain_disks.ts";
import { releaseHold, takeHold } from "./hold.ts";
import { migrateArguments, openPipeSocket, type PipeCommand, recoverDomain } from "./recovery.ts";
import { Pacer } from "./pacer.ts";
import { MigrationStream } from "./stream/migration_stream.ts";
import { type DomainState, queryState } from "./xl.ts";
import { xlFailure, XlProcess } from "./xl_process.ts";
import { readBackends, watchDomains } from "./xenstore.ts";

const PROGRESS_INTERVAL_MS = 500;
const CHUNK_BYTES = 1 << 18;
/**
 * libxl gives a domain 60 s to stop. Then it needs the device model to let the domain run on, and fails
 * at that when it is held. (Seen with a domain that was paused in the middle of an access to a device.)
 */
const SUSPEND_TIMEOUT_MS = 50_000;
/** What xl may take to give up: it lets the guest run on meanwhile. */
const XL_END_TIMEOUT_MS = 60_000;

export interface XenOutgoingOptions {
  domain: DomainIdentity;
  /** The device model. */
  qmp: QmpClient;
  memoryBytes: number;
  uses: readonly DiskUse[];
  pipe: PipeCommand;
  /** The state in which the guest was when it was suspended. */
  onSuspended: (state: DomainState) => void;
}

export class XenOutgoing implements Outgoing {
  readonly #options: XenOutgoingOptions;
  readonly #failed = new AbortController();
  /** The first pages have come, and the device model is held if it has to be. */
  readonly #begun = Promise.withResolvers<void>();
  /** What only comes from a domain that is suspended. */
  readonly #suspended = Promise.withResolvers<void>();
  /** The last of it. */
  readonly #sent = Promise.withResolvers<void>();
  readonly #asked = Promise.withResolvers<void>();
  readonly #pacer = new Pacer();
  readonly #stream = new MigrationStream();
  #xl: XlProcess | undefined;
  #conn: Deno.UnixConn | undefined;
  #network: Deno.UnixConn | undefined;
  /** To the program that holds the device model. */
  #guard: Deno.UnixConn | undefined;
  #holds = false;
  /** Ends what looks at the domain meanwhile. */
  readonly #over = new AbortController();
  /** In which the domain was found suspended, if it was looked at. */
  #state: DomainState | null = null;
  #startedMs = 0;
  #sentBytes = 0;
  /** Since when nothing has come from xl; Infinity while what has come is passed on. */
  #silentSinceMs = Infinity;
  #askedForPermission = false;
  #answered = false;
  #ending = false;

  constructor(options: XenOutgoingOptions) {
    this.#options = options;
    this.#begun.promise.catch(() => {});
    this.#sent.promise.catch(() => {});
    this.#asked.promise.catch(() => {});
  }

  /** The limit on the memory's rate; the other settings are QEMU's and mean nothing to xl. */
  configure({ bandwidthBytesPerS }: RamOptions): Promise<void> {
    if (bandwidthBytesPerS !== null) this.#pacer.setRate(bandwidthBytesPerS);
    return Promise.resolve();
  }

  /** Changes the limit while it goes on. */
  adjust({ bandwidthBytesPerS }: RamLimits): Promise<void> {
    if (bandwidthBytesPerS !== null) this.#pacer.setRate(bandwidthBytesPerS);
    return Promise.resolve();
  }

  /** There is nothing of the domain's that `configure` changes. */
  remember(): Promise<void> {
    return Promise.resolve();
  }

  /** See `remember`. */
  restore(): Promise<void> {
    return Promise.resolve();
  }

  /** The process of `xl migrate`, for a journal; null before `start`. */
  get xlPid(): number | null {
    return this.#xl?.pid ?? null;
  }

  /** Begins to send into the unix socket `path`. Undo with `cancel`, also after an error. */
  async start(path: string, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    const { domain, pipe } = this.#options;
    await using socket = await openPipeSocket();
    const args = migrateArguments(domain.domid, [...pipe, socket.path]);
    const xl = this.#xl = XlProcess.start(args, "null");
    this.#startedMs = performance.now();
    xl.ended.then((end) => {
      if (!this.#ending) this.#fail(xlFailure("xl migrate", end));
    });
    const stop = AbortSignal.any([signal, this.#failed.signal]);
    const accept = () => {
      const accepting = socket.accept();
      accepting.catch(() => {}); // closed with the socket when xl does not come
      return abortable(accepting, stop);
    };
    const conn = this.#conn = await accept();
    this.#guard = await accept();
    const network = this.#network = await Deno.connect({ transport: "unix", path });
    this.#forward(conn, network).catch((error) => this.#fail(error));
    this.#back(network, conn).catch((error) => this.#fail(error));
  }

  /**
   * Waits until xl has suspended the domain. Where disks are mirrored the device model is stopped then,
   * and libxl waits for it. Gives the time at which that was seen (ms since the epoch).
   * @throws AgentError `xl_ended`, `guest_stopped`, `domain_not_suspended`
   */
  async waitStopped(options: {
    report: (progress: RamProgress) => void;
    signal: AbortSignal;
  }): Promise<number> {
    const { qmp, uses } = this.#options;
    const over = new AbortController();
    const signal = AbortSignal.any([options.signal, this.#failed.signal, over.signal]);
    const reporting = this.#reportProgress(options.report, signal);
    try {
      await abortable(this.#begun.promise, signal);
      const stoppedAtMs = await abortable(this.#watchSuspended(), signal);
      if (uses.length > 0) await qmp.execute("stop", {}, { signal });
      return stoppedAtMs;
    } finally {
      over.abort();
      await reporting;
    }
  }

  /**
   * The mirrors have ended: lets libxl have the device model, and waits until xl asks the destination
   * to run the guest, which stays with us.
   * @throws AgentError `guest_stopped`, `disk_backend_changed`
   */
  async finish(signal: AbortSignal): Promise<RamProgress> {
    const stop = AbortSignal.any([signal, this.#failed.signal]);
    if (this.#holds) await releaseHold(this.#guard!, stop);
    await abortable(this.#sent.promise, stop);
    await abortable(Promise.all([this.#asked.promise, this.#check(stop)]), stop);
    return this.#progress();
  }

  /** The guest runs at the destination: xl ends the domain here. @throws AgentError `xl_ended` */
  async handOver(): Promise<void> {
    this.#ending = true;
    await this.#answer(Uint8Array.of(...REPORT, 0));
    const end = await this.#xl!.waitEnd(XL_END_TIMEOUT_MS);
    this.#close();
    if (end.code !== 0) throw xlFailure("xl migrate", end);
  }

  /**
   * Ends the sending; the guest runs on here. Mirrors that still go on end before libxl gets at the
   * device model (hold.ts).
   */
  async cancel(): Promise<void> {
    const xl = this.#xl;
    if (!xl) return;
    this.#ending = true;
    // Once it has asked, xl would only say "check at both ends" when its connection ends.
    if (this.#askedForPermission && !this.#answered && !xl.hasEnded) {
      await this.#answer(Uint8Array.of(...REPORT, 1, ...PERMISSION));
    } else this.#close();
    await xl.waitEnd(XL_END_TIMEOUT_MS);
    this.#close();
    const { domain, pipe, qmp } = this.#options;
    // Its vCPUs stay paused when an operator has paused it; suspended it is of no use to anybody.
    // Nor would it be without its device model, and libxl cannot let it run on.
    await recoverDomain(domain, { pipe, run: !qmp.ended.aborted });
  }

  [Symbol.dispose](): void {
    this.#close();
  }

  /** From xl to the other host, chunk by chunk, up to xl's question. */
  async #forward(conn: Deno.UnixConn, network: Deno.UnixConn): Promise<void> {
    const buffer = new Uint8Array(CHUNK_BYTES);
    while (true) {
      this.#silentSinceMs = performance.now();
      const count = await conn.read(buffer);
      this.#silentSinceMs = Infinity;
      if (count === null) return; // xl has ended, and its own words say why
      for (const { kind, bytes } of this.#stream.feed(buffer.subarray(0, count))) {
        if (kind === "permission") {
          this.#askedForPermission = true;
          this.#asked.resolve();
        } else {
          await writeAll(network, bytes);
          this.#sentBytes += bytes.length;
          if (kind === "end") this.#sent.resolve();
        }
      }
      const { progress } = this.#stream;
      // xl cannot suspend the domain before this is read on, so the hold is always in time.
      if (progress.passes > 0) await this.#begin();
      if (progress.isSuspended) this.#suspended.resolve();
      await this.#pacer.pace(count, this.#failed.signal);
    }
  }

  /** From the other host to xl: two messages, and nothing that could end the domain here. */
  async #back(network: Deno.UnixConn, conn: Deno.UnixConn): Promise<void> {
    for (const message of [BANNER, READY]) {
      await readMessage(network, message);
      await writeAll(conn, message);
    }
  }

  /** The memory has begun to come. */
  async #begin(): Promise<void> {
    const { domain: { domid }, uses } = this.#options;
    if (uses.length > 0 && !this.#holds) {
      await takeHold(this.#guard!, { path: libxlSocket(domid), signal: this.#failed.signal });
      this.#holds = true;
    }
    this.#begun.resolve();
  }

  /** When it was suspended. Where libxl waits for the device model only a look tells it, else the stream. */
  async #watchSuspended(): Promise<number> {
    const signal = AbortSignal.any([this.#failed.signal, this.#over.signal]);
    let events = 0;
    let stoppedAtMs = 0;
    const watching = watchDomains(async () => {
      if (events++ > 0) stoppedAtMs = Date.now(); // the first is the watch's own
      // xl itself needs the processor that a look would take.
      return this.#holds ? this.#state = await this.#lookSuspended(signal) : null;
    }, signal);
    await Promise.race([watching, this.#suspended.promise]);
    return stoppedAtMs || Date.now();
  }

  /** All of it has been sent, and xl does nothing here until it has been loaded. */
  async #check(signal: AbortSignal): Promise<void> {
    const { domain, uses, onSuspended } = this.#options;
    const state = this.#state ?? await this.#lookSuspended(signal);
    if (state) onSuspended(state);
    if (uses.length > 0) checkUnchanged(uses, await readBackends(domain.domid, signal));
  }

  async #lookSuspended(signal: AbortSignal): Promise<DomainState | null> {
    const { domid } = this.#options.domain;
    const state = await queryState(domid, signal);
    if (state?.shutdown === null && !state.dying) return null;
    if (state?.shutdown === "suspend") return state;
    throw new AgentError(
      "guest_stopped",
      `Domain ${domid} has stopped during its migration (${state?.shutdown ?? "it is gone"})`,
      { side: "source" },
    );
  }

  #checkSilence(): void {
    if (!this.#holds || performance.now() - this.#silentSinceMs < SUSPEND_TIMEOUT_MS) return;
    this.#fail(
      new AgentError(
        "domain_not_suspended",
        `xl has sent nothing for ${SUSPEND_TIMEOUT_MS / 1000} s, and the domain has not stopped: ` +
          `libxl could not suspend it`,
        { side: "source", hint: "if it is paused, let it run: xl unpause" },
      ),
    );
  }

  async #answer(bytes: Uint8Array): Promise<void> {
    this.#answered = true;
    await writeAll(this.#conn!, bytes);
  }

  async #reportProgress(
    report: (progress: RamProgress) => void,
    signal: AbortSignal,
  ): Promise<void> {
    while (!signal.aborted) {
      report(this.#progress());
      this.#checkSilence();
      await delay(PROGRESS_INTERVAL_MS, signal).catch(() => {}); // the condition sees it
    }
  }

  #progress(): RamProgress {
    const { memoryBytes } = this.#options;
    const { pageBytes, passes } = this.#stream.progress;
    const seconds = (performance.now() - this.#startedMs) / 1000;
    return {
      transferredBytes: this.#sentBytes,
      remainingBytes: Math.max(0, memoryBytes - pageBytes),
      totalBytes: memoryBytes,
      rateBytesPerS: this.#sentBytes / seconds,
      iteration: passes,
      expectedDowntimeMs: null,
    };
  }

  #fail(error: unknown): void {
    if (this.#ending) return;
    const failure = toAgentError(error, { side: "source" });
    this.#failed.abort(failure);
    this.#begun.reject(failure);
    this.#sent.reject(failure);
    this.#asked.reject(failure);
  }

  #close(): void {
    this.#over.abort();
    for (const conn of [this.#conn, this.#network, this.#guard]) {
      try {
        conn?.close();
      } catch (error) {
        if (!(error instanceof Deno.errors.BadResource)) throw error; // closed already
      }
    }
  }
}
