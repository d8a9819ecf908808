// A link over a process's standard input and output: ssh to the receiver's host on one side, this
// process's own stdin and stdout on the other.

import { AgentError, quote } from "../base/errors.ts";
import { type Link, linkEnded } from "./link.ts";

export interface SshTarget {
  /** `[USER@]HOST[:PORT]` */
  target: string;
  /** The program on the other host. */
  program: string;
  /** Its options after `receive --stdio`; a shell there splits them. */
  options: string;
  /** ssh's own configuration file; null for the usual ones. */
  config: string | null;
}

/** Starts the receiver over ssh. ssh's messages, and the receiver's, appear on standard error. */
export function openSsh({ target, program, options, config }: SshTarget): ProcessLink {
  const [, host, port] = /^(.*?)(?::(\d+))?$/.exec(target)!;
  const args = [
    "-T",
    // Nobody is there to answer a question, and a dead host must be noticed.
    ...["-o", "BatchMode=yes", "-o", "ServerAliveInterval=2", "-o", "ServerAliveCountMax=3"],
    ...(config === null ? [] : ["-F", config]),
    ...(port === undefined ? [] : ["-p", port]),
    ...["--", host!, `exec ${shellWord(program)} receive --stdio ${options}`],
  ];
  try {
    return new ProcessLink(
      new Deno.Command("ssh", { args, stdin: "piped", stdout: "piped", stderr: "inherit" }).spawn(),
    );
  } catch (cause) {
    throw new AgentError("ssh_missing", `Cannot start ssh to ${quote(target)}`, {
      kind: "link",
      cause,
      hint: "install OpenSSH's client (Debian: openssh-client)",
    });
  }
}

/** The other end of a child process. Closing it ends the child. */
export class ProcessLink implements Link {
  readonly #child: Deno.ChildProcess;
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  #rest: Uint8Array = new Uint8Array();

  constructor(child: Deno.ChildProcess) {
    this.#child = child;
    this.#reader = child.stdout.getReader();
    this.#writer = child.stdin.getWriter();
  }

  async read(p: Uint8Array): Promise<number | null> {
    if (this.#rest.length === 0) {
      const { value } = await this.#reader.read();
      if (value === undefined) return await this.#ended();
      this.#rest = value;
    }
    const count = Math.min(p.length, this.#rest.length);
    p.set(this.#rest.subarray(0, count));
    this.#rest = this.#rest.subarray(count);
    return count;
  }

  async write(p: Uint8Array): Promise<number> {
    // The stream keeps what it is given until it is out; the caller uses `p` again.
    await this.#writer.write(p.slice());
    return p.length;
  }

  async closeWrite(): Promise<void> {
    await this.#writer.close();
  }

  close(): void {
    try {
      this.#child.kill("SIGTERM");
    } catch (error) {
      if (!(error instanceof TypeError)) throw error; // it has ended already
    }
  }

  /** The end of its output: an end in order only when the process succeeded. */
  async #ended(): Promise<null> {
    const { success, code } = await this.#child.status;
    if (success) return null;
    throw linkEnded(`ssh, or the receiver that it started, ended with exit code ${code}`);
  }
}

/** This process's own standard input and output, for `receive --stdio`. */
export class StdioLink implements Link {
  async read(p: Uint8Array): Promise<number | null> {
    return await Deno.stdin.read(p);
  }

  async write(p: Uint8Array): Promise<number> {
    return await Deno.stdout.write(p);
  }

  closeWrite(): Promise<void> {
    Deno.stdout.close();
    return Promise.resolve();
  }

  close(): void {
    for (const end of [Deno.stdin, Deno.stdout]) {
      try {
        end.close();
      } catch (error) {
        if (!(error instanceof Deno.errors.BadResource)) throw error; // closed already
      }
    }
  }
}

/** A word that a shell takes as it is. */
function shellWord(word: string): string {
  return `'${word.replaceAll("'", `'\\''`)}'`;
}
