// The console of a Xen host: what the hypervisor and dom0 print, line by line, with the time at which
// it came. All hosts of a test are timed by the same clock, that of the test.

import { TextLineStream } from "@std/streams/text-line-stream";
import { abortable } from "../../../src/base/deadline.ts";

export interface ConsoleLine {
  text: string;
  /** When it came: ms of `performance.now()`. */
  atMs: number;
}

/** As much of it as an error message shows. */
const SHOWN_LINES = 40;

export class Console {
  readonly lines: ConsoleLine[] = [];
  readonly #reading: Promise<void>;
  #isOver = false;
  /** Resolved and replaced whenever a line has come or the console has ended. */
  #changed = Promise.withResolvers<void>();

  constructor(readable: ReadableStream<Uint8Array<ArrayBuffer>>) {
    this.#reading = this.#read(readable);
  }

  /**
   * The first line, from line number `from` on, for which `match` holds.
   * @throws Error with the end of the console when it ends without one
   */
  async waitFor(
    match: (line: ConsoleLine) => boolean,
    { from = 0, signal }: { from?: number; signal: AbortSignal },
  ): Promise<ConsoleLine> {
    for (let at = from;;) {
      for (; at < this.lines.length; at++) {
        if (match(this.lines[at]!)) return this.lines[at]!;
      }
      if (this.#isOver) {
        throw new Error(`The host has ended.
${this.tail()}`);
      }
      await abortable(this.#changed.promise, signal);
    }
  }

  /** Its last lines, for an error message. */
  tail(): string {
    const last = this.lines.slice(-SHOWN_LINES).map(({ text }) => `  ${text}`);
    return ["The end of the host's console:", ...last].join("\n");
  }

  /** Waits for its end, which is that of the host. */
  async ended(): Promise<void> {
    await this.#reading;
  }

  async #read(readable: ReadableStream<Uint8Array<ArrayBuffer>>): Promise<void> {
    const lines = readable.pipeThrough(new TextDecoderStream()).pipeThrough(new TextLineStream());
    try {
      for await (const text of lines) {
        this.lines.push({ text: text.replaceAll("\r", ""), atMs: performance.now() });
        this.#changed.resolve();
        this.#changed = Promise.withResolvers();
      }
    } finally {
      this.#isOver = true;
      this.#changed.resolve();
    }
  }
}
