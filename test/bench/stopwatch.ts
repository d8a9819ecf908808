// What a migration took, read from the events of both QEMUs (one machine, one clock) and from the
// guest's own counter; the same for whoever drives it.

import { delay } from "../../src/base/deadline.ts";
import type { QmpClient } from "../../src/qmp/client.ts";
import type { QmpEvent } from "../../src/qmp/events.ts";
import { readGuest } from "../lib/vm.ts";

/** Between two looks at the guest's counter. */
const LOOK_MS = 5;

/** Durations in ms, as the QEMUs and the guest saw them. */
export interface Times {
  /** From the first step to the guest's resume at the destination. */
  total: number;
  /** From the first job to the readiness of the last. */
  mirror: number;
  /** From `migrate` to the guest's stop. */
  ram: number;
  /** From the guest's stop at the source to its resume at the destination. */
  pause: number;
  /** The gap in the guest's counter around that, to within a turn of the guest. */
  guestPause: number;
  /** The longest time before the stop in which the guest's counter stood still. */
  stall: number;
}

export class Stopwatch implements Disposable {
  readonly #source: QmpClient;
  readonly #stop = new AbortController();
  readonly #events: { source: QmpEvent[]; destination: QmpEvent[] } = {
    source: [],
    destination: [],
  };
  #beganMs = Date.now();
  readonly #resumed = Promise.withResolvers<void>();
  readonly #counter: Promise<{ gapMs: number; lastMs: number; count: number }>;
  #destination: QmpClient | undefined;

  /** Starts to measure; `begin` moves the first moment. */
  constructor(source: QmpClient) {
    this.#source = source;
    this.#follow(source, this.#events.source);
    this.#counter = this.#watchCounter();
    this.#counter.catch(() => {}); // thrown by `finish`
  }

  /** What came before was preparation. */
  begin(): void {
    this.#beganMs = Date.now();
  }

  /** The destination's QEMU is there. */
  readonly follow = (destination: QmpClient): void => {
    this.#destination = destination;
    this.#follow(destination, this.#events.destination);
  };

  /** Waits for the guest to go on at the destination. */
  async finish(signal: AbortSignal): Promise<Times> {
    const { gapMs, lastMs, count } = await this.#counter;
    signal.addEventListener("abort", () => this.#resumed.reject(signal.reason), { once: true });
    await this.#resumed.promise;
    let guest = await readGuest(this.#destination!, signal);
    for (; guest.count <= count; guest = await readGuest(this.#destination!, signal)) {
      await delay(1, signal);
    }
    const guestPause = Date.now() - lastMs;
    if (guest.badDisk + guest.badRam + guest.ioErrors > 0) {
      throw new Error(`The guest is not whole: ${JSON.stringify(guest)}`);
    }
    const { source, destination } = this.#events;
    const time = (events: readonly QmpEvent[], name: string, status?: string) => {
      const event = events.find(({ event, data }) =>
        event === name && (status === undefined || data.status === status)
      );
      if (!event) throw new Error(`There was no event ${name} ${status ?? ""}`);
      return event.timestampMs;
    };
    const stopped = time(source, "STOP");
    const resumed = time(destination, "RESUME");
    return {
      total: resumed - this.#beganMs,
      mirror: time(source.toReversed(), "BLOCK_JOB_READY") -
        time(source, "JOB_STATUS_CHANGE", "created"),
      ram: stopped - time(source, "MIGRATION", "setup"),
      pause: resumed - stopped,
      guestPause,
      stall: gapMs,
    };
  }

  [Symbol.dispose](): void {
    this.#stop.abort();
  }

  async #follow(qmp: QmpClient, events: QmpEvent[]): Promise<void> {
    using subscription = qmp.subscribe();
    try {
      while (true) {
        const event = await subscription.next(this.#stop.signal);
        events.push(event);
        if (event.event === "RESUME") this.#resumed.resolve();
      }
    } catch (error) {
      if (!this.#stop.signal.aborted && !qmp.ended.aborted) this.#resumed.reject(error);
    }
  }

  /** Looks at the guest's counter until it has stopped: the longest time without a change. */
  async #watchCounter(): Promise<{ gapMs: number; lastMs: number; count: number }> {
    const { signal } = this.#stop;
    let count = 0;
    let gapMs = 0;
    let lastMs = Date.now();
    while (!this.#events.source.some(({ event }) => event === "STOP")) {
      const status = await readGuest(this.#source, signal);
      if (status.count !== count) {
        if (count > 0) gapMs = Math.max(gapMs, Date.now() - lastMs);
        lastMs = Date.now();
        count = status.count;
      }
      await delay(LOOK_MS, signal);
    }
    return { gapMs, lastMs, count };
  }
}
