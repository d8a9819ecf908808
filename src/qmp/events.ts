// QMP events on their way from a client to whoever waits for them: a queue a subscriber, so that one
// slow reader loses nothing and holds nobody up.

import { AsyncQueue } from "../base/queue.ts";

export interface QmpEvent {
  event: string;
  data: Record<string, unknown>;
  /** QEMU's own time of the event, in ms since the epoch, with microsecond digits. */
  timestampMs: number;
}

export interface EventListener {
  deliver(event: QmpEvent): void;
  fail(error: Error): void;
}

export class EventSubscription implements EventListener, Disposable {
  readonly #names: ReadonlySet<string>;
  readonly #queue = new AsyncQueue<QmpEvent>();
  readonly #stop: () => void;
  #lastSeenMs: number | undefined;

  /** An empty set of names means every event. */
  constructor(names: ReadonlySet<string>, stop: () => void) {
    this.#names = names;
    this.#stop = stop;
  }

  deliver(event: QmpEvent): void {
    if (this.#names.size > 0 && !this.#names.has(event.event)) return;
    this.#lastSeenMs = event.timestampMs;
    this.#queue.push(event);
  }

  /** QEMU's time of the newest event, whether it was taken or not; undefined before the first. */
  get lastSeenMs(): number | undefined {
    return this.#lastSeenMs;
  }

  fail(error: Error): void {
    this.#queue.fail(error);
  }

  /**
   * The next event for which `match` holds; those before it are dropped.
   * @throws the signal's reason, or `qmp_lost` when the connection ended
   */
  async next(
    signal: AbortSignal,
    match: (event: QmpEvent) => boolean = () => true,
  ): Promise<QmpEvent> {
    while (true) {
      const event = await this.#queue.take(signal);
      if (event === null) throw new Error("event subscription used after its end");
      if (match(event)) return event;
    }
  }

  [Symbol.dispose](): void {
    this.#stop();
    this.#queue.close();
  }
}
