// A running `xl migrate` or `xl migrate-receive`: its end, what it said on stderr, and the end of the
// helper that it starts for the memory.

import { abortable, delay } from "../base/deadline.ts";
import { AgentError, describeError, quote } from "../base/errors.ts";

const MAX_TAIL_BYTES = 16_384;
const MAX_MESSAGE_CHARS = 1000;
/** What xl said last is in the pipe when it has ended; its helper may hold the pipe open. */
const LAST_WORDS_MS = 500;

export interface XlEnd {
  code: number;
  /** The last that it printed. */
  said: string;
}

export class XlProcess {
  readonly child: Deno.ChildProcess;
  /** xl has ended; a helper of it may still be there. */
  readonly ended: Promise<XlEnd>;
  /** Nobody has its stderr any more: its helper has ended, too. */
  readonly #helperEnded: Promise<void>;
  #said = "";
  #end: XlEnd | null = null;

  private constructor(child: Deno.ChildProcess) {
    this.child = child;
    this.#helperEnded = this.#listen(child.stderr);
    this.ended = child.status.then(async ({ code }) => {
      this.#end = { code, said: this.#said };
      await Promise.race([this.#helperEnded, delay(LAST_WORDS_MS)]);
      return this.#end = { code, said: this.#said };
    });
  }

  /**
   * Starts xl on its own, out of reach of a Ctrl-C at the agent's terminal. One that receives ends with
   * this program, however that ends: the end of its input would count as the end of the stream.
   */
  static start(args: readonly string[], stdio: "null" | "piped"): XlProcess {
    const before = stdio === "piped" ? ["setpriv", "--pdeathsig", "TERM", "--"] : [];
    const [program, ...words] = [...before, "xl", ...args];
    try {
      return new XlProcess(
        new Deno.Command(program!, {
          args: words,
          stdin: stdio,
          stdout: stdio,
          stderr: "piped",
          detached: true,
        }).spawn(),
      );
    } catch (cause) {
      throw new AgentError("xen_tool_missing", `Cannot run xl: ${describeError(cause)}`, { cause });
    }
  }

  get pid(): number {
    return this.child.pid;
  }

  get hasEnded(): boolean {
    return this.#end !== null;
  }

  /** Asks it to end (SIGTERM); it may have ended already. */
  terminate(): void {
    if (this.#end === null) this.child.kill("SIGTERM");
  }

  /** Waits for its end. @throws AgentError `xl_survives` */
  async waitEnd(timeoutMs: number): Promise<XlEnd> {
    return await this.#within(timeoutMs, { what: "xl", ended: this.ended });
  }

  /**
   * Waits until its helper has ended as well: until then the memory of the domain is in use. Whoever
   * has ended xl by a signal closes its standard input first. @throws AgentError `xl_survives`
   */
  async waitHelper(timeoutMs: number): Promise<void> {
    await this.#within(timeoutMs, { what: "the helper of xl", ended: this.#helperEnded });
  }

  async #within<T>(
    timeoutMs: number,
    { what, ended }: { what: string; ended: Promise<T> },
  ): Promise<T> {
    const limit = AbortSignal.timeout(timeoutMs);
    try {
      return await abortable(ended, limit);
    } catch (cause) {
      if (!limit.aborted) throw cause;
      throw new AgentError(
        "xl_survives",
        `${what} (process ${this.pid}) has not ended within ${timeoutMs} ms`,
        { cause, hint: "never end it with SIGKILL: the guest would stay suspended" },
      );
    }
  }

  async #listen(stream: ReadableStream<Uint8Array<ArrayBuffer>>): Promise<void> {
    for await (const text of stream.pipeThrough(new TextDecoderStream())) {
      this.#said = (this.#said + text).slice(-MAX_TAIL_BYTES);
    }
  }
}

/** The error that an unexpected end of xl is. */
export function xlFailure(what: string, { code, said }: XlEnd): AgentError {
  const words = quote(said.trim().replace(/\s*\r?\n\s*/g, "; "), MAX_MESSAGE_CHARS);
  return new AgentError("xl_ended", `${what} ended with status ${code}: ${words}`);
}
