// A running `xl migrate` or `xl migrate-receive`: its end, and what it said on stderr.

import { abortable } from "../base/deadline.ts";
import { AgentError, describeError, quote } from "../base/errors.ts";

const MAX_TAIL_BYTES = 16_384;
const MAX_MESSAGE_CHARS = 1000;

export interface XlEnd {
  code: number;
  /** The last that it printed. */
  said: string;
}

export class XlProcess {
  readonly child: Deno.ChildProcess;
  readonly ended: Promise<XlEnd>;
  #end: XlEnd | null = null;

  private constructor(child: Deno.ChildProcess) {
    this.child = child;
    this.ended = readTail(child.stderr).then(async (said) => {
      const { code } = await child.status;
      return this.#end = { code, said };
    });
  }

  /** Starts xl on its own, out of reach of a Ctrl-C at the agent's terminal. */
  static start(args: readonly string[], stdio: "null" | "piped"): XlProcess {
    try {
      return new XlProcess(
        new Deno.Command("xl", {
          args: [...args],
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
    const limit = AbortSignal.timeout(timeoutMs);
    try {
      return await abortable(this.ended, limit);
    } catch (cause) {
      if (!limit.aborted) throw cause;
      throw new AgentError(
        "xl_survives",
        `xl (process ${this.pid}) has not ended within ${timeoutMs} ms`,
        { cause, hint: "never end it with SIGKILL: the guest would stay suspended" },
      );
    }
  }
}

/** The error that an unexpected end of xl is. */
export function xlFailure(what: string, { code, said }: XlEnd): AgentError {
  const words = quote(said.trim().replace(/\s*\r?\n\s*/g, "; "), MAX_MESSAGE_CHARS);
  return new AgentError("xl_ended", `${what} ended with status ${code}: ${words}`);
}

async function readTail(stream: ReadableStream<Uint8Array>): Promise<string> {
  let tail = "";
  for await (const text of stream.pipeThrough(new TextDecoderStream())) {
    tail = (tail + text).slice(-MAX_TAIL_BYTES);
  }
  return tail;
}
