// How long a tiny guest stands still: `await using meter = await StallMeter.start(vm, { signal })`, and
// `meter.longestMs` at any time. Its counter is read from QEMU's memory past QEMU, so that a QEMU whose
// main loop hangs is seen as what it is to its guest. The guest stamps its disks in every turn: one
// that waits for a disk stands still too.

import type { QmpClient } from "../../src/qmp/client.ts";
import { parseStatus, STATUS_ADDRESS, STATUS_BYTES } from "../../src/demo_guest/guest.ts";

/** Twice this is what a stall may have been longer than it was measured. */
const INTERVAL_MS = 20;

export class StallMeter implements AsyncDisposable {
  readonly #memory: Deno.FsFile;
  readonly #address: number;
  readonly #stop = new AbortController();
  readonly #watching: Promise<void>;
  #count = -1;
  #since = performance.now();
  #lookedAt = performance.now();
  #longestMs = 0;
  #blindMs = 0;

  private constructor(memory: Deno.FsFile, address: number) {
    this.#memory = memory;
    this.#address = address;
    this.#watching = this.#watch();
  }

  /** For a guest that is up, such as a `TestVm`. The QEMU must be this user's, or this user root. */
  static async start(
    vm: { monitor: QmpClient; pid: number },
    options: { signal: AbortSignal },
  ): Promise<StallMeter> {
    const command = `gpa2hva 0x${STATUS_ADDRESS.toString(16)}`;
    const args = { "command-line": command };
    const answer = await vm.monitor.execute("human-monitor-command", args, options);
    const address = /\bis (0x[0-9a-f]+)/.exec(answer)?.[1];
    if (address === undefined) throw new Error(`Cannot find the guest's memory: ${answer}`);
    return new StallMeter(await Deno.open(`/proc/${vm.pid}/mem`), Number(address));
  }

  /** The longest time so far in which the counter stood still. */
  get longestMs(): number {
    return Math.round(this.#longestMs);
  }

  /** The longest time so far in which nobody looked: a shorter stall may have been missed then. */
  get blindMs(): number {
    return Math.round(this.#blindMs);
  }

  /** Forgets what was measured, to begin anew. */
  reset(): void {
    this.#since = this.#lookedAt = performance.now();
    this.#longestMs = this.#blindMs = 0;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#watching;
    this.#memory.close();
  }

  async #watch(): Promise<void> {
    while (!this.#stop.signal.aborted && await this.#look()) {
      await new Promise((done) => setTimeout(done, INTERVAL_MS)); // the counter sends no event
    }
  }

  /** False when QEMU has ended. */
  async #look(): Promise<boolean> {
    const bytes = new Uint8Array(STATUS_BYTES);
    try {
      await this.#memory.seek(this.#address, Deno.SeekMode.Start);
      if (await this.#memory.read(bytes) !== bytes.length) return false;
    } catch (error) {
      if (error instanceof Error && error.message.includes("os error 5")) return false; // EIO: it has ended
      throw error;
    }
    const now = performance.now();
    this.#blindMs = Math.max(this.#blindMs, now - this.#lookedAt);
    this.#lookedAt = now;
    const count = parseStatus(bytes)?.count ?? -1;
    // From the first look that found this count to the last one: a late look makes no stall longer.
    if (count === this.#count) this.#longestMs = Math.max(this.#longestMs, now - this.#since);
    else [this.#count, this.#since] = [count, now];
    return true;
  }
}
