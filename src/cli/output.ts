// Where printers write. Writing is queued and never waits: a reader that stalls (a stopped pager, a
// full pipe, a terminal that was halted) must not stall a switchover.

import { AsyncQueue } from "../base/queue.ts";

/** What a printer writes on: standard output and standard error, or what stands for them. */
export interface Outputs {
  /** Queues text for standard output; returns at once. */
  out(text: string): void;
  /** Queues text for standard error; returns at once. */
  err(text: string): void;
  /** Ends both; resolves when all that was queued is out, or nobody reads it any more. */
  close(): Promise<void>;
}

/** A file descriptor such as `Deno.stdout`. */
export interface Target {
  write(bytes: Uint8Array): Promise<number>;
}

export interface TerminalSize {
  columns: number;
  rows: number;
}

/**
 * Both outputs behind one queue: on a terminal they are the same screen, and an account that
 * overtook the bars would be drawn into them.
 */
export class QueuedOutputs implements Outputs {
  readonly #out: Target;
  readonly #err: Target;
  readonly #queue = new AsyncQueue<{ target: Target; text: string }>();
  readonly #pump: Promise<void>;

  constructor(targets: { out: Target; err: Target }) {
    this.#out = targets.out;
    this.#err = targets.err;
    this.#pump = this.#run();
  }

  out(text: string): void {
    this.#queue.push({ target: this.#out, text });
  }

  err(text: string): void {
    this.#queue.push({ target: this.#err, text });
  }

  close(): Promise<void> {
    this.#queue.close();
    return this.#pump;
  }

  async #run(): Promise<void> {
    const never = new AbortController().signal;
    const encoder = new TextEncoder();
    const gone = new Set<Target>();
    for (;;) {
      const item = await this.#queue.take(never);
      if (item === null) return;
      if (gone.has(item.target)) continue;
      try {
        let bytes = encoder.encode(item.text);
        while (bytes.length > 0) bytes = bytes.subarray(await item.target.write(bytes));
      } catch {
        // The reader is gone (`| head`), and there is nowhere left to say so: the migration matters
        // more than its log, so what follows for this reader is thrown away.
        gone.add(item.target);
      }
    }
  }
}
