// Senders and receivers as real processes of the program under test: the executable that the
// environment's MIGRATE_AGENT names, or agents/main.ts when it names none. Their JSON lines are
// checked against the schema as they come.

import * as v from "valibot";
import { TextLineStream } from "@std/streams/text-line-stream";
import { abortable } from "../../src/base/deadline.ts";
import { LineSchema } from "./event_schema.ts";

export type Line = v.InferOutput<typeof LineSchema>;
export type LineOf<T extends Line["type"]> = Extract<Line, { type: T }>;
export type Account = LineOf<"account">;

export interface AgentEnd {
  code: number;
  lines: readonly Line[];
  /** The last line, when it is one; null for a run that ended before there was a migration. */
  account: Account | null;
  /** The error of the account, or of the only line; null after success. */
  error: Account["error"];
}

export interface AgentOptions {
  /** Where the agent makes its temporary folders: a test can see whether something is left there. */
  tmpDir: string;
  /** A network namespace to run in. */
  netns?: string;
  /** Makes of its arguments the command that runs it elsewhere; killing that does not end it there. */
  inside?: (args: readonly string[]) => string[];
  signal: AbortSignal;
}

export class Agent implements AsyncDisposable {
  readonly pid: number;
  readonly ended: Promise<AgentEnd>;
  /** All lines so far. */
  readonly lines: Line[] = [];
  readonly #name: string;
  readonly #child: Deno.ChildProcess;
  readonly #signal: AbortSignal;
  #isOver = false;
  #stderr = "";
  /** Resolved and replaced whenever a line has come or the process has ended. */
  #changed = Promise.withResolvers<void>();

  private constructor(child: Deno.ChildProcess, name: string, signal: AbortSignal) {
    this.#child = child;
    this.#name = name;
    this.#signal = signal;
    this.pid = child.pid;
    this.ended = this.#run();
    this.ended.catch(() => {}); // whoever waits for the end or for a line gets the error
  }

  /** Starts the program with `args` and `--json`. It is killed when the test process ends. */
  static start(args: readonly string[], options: AgentOptions): Agent {
    const all = [...args, "--json"];
    const argv = options.inside?.(all) ?? [...agentCommand(), ...all];
    const netns = options.netns ? ["ip", "netns", "exec", options.netns] : [];
    const [command, ...words] = [...netns, "setpriv", "--pdeathsig", "KILL", ...argv];
    const child = new Deno.Command(command!, {
      args: words,
      env: { TMPDIR: options.tmpDir, NO_COLOR: "1" },
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    return new Agent(child, args[0]!, options.signal);
  }

  kill(signo: Deno.Signal): void {
    this.#child.kill(signo);
  }

  /**
   * The first line of type `type` for which `match` holds, also among those that came before.
   * @throws Error with all that the agent said when it ends without such a line
   */
  async waitFor<T extends Line["type"]>(
    type: T,
    match: (line: LineOf<T>) => boolean = () => true,
  ): Promise<LineOf<T>> {
    for (let at = 0;;) {
      for (; at < this.lines.length; at++) {
        const line = this.lines[at]!;
        if (line.type === type && match(line as LineOf<T>)) return line as LineOf<T>;
      }
      if (this.#isOver) throw new Error(`No such '${type}' line from ${this.describe()}`);
      // `ended` fails when a line is not what it should be.
      await abortable(Promise.race([this.#changed.promise, this.ended]), this.#signal);
    }
  }

  /** Waits for its end, which must come with exit code `code`. @throws Error with all that it said */
  async expectEnd(code: number): Promise<AgentEnd> {
    const end = await abortable(this.ended, this.#signal);
    if (end.code === code) return end;
    throw new Error(`Exit code ${end.code} instead of ${code} from ${this.describe()}`);
  }

  /** What it has said, but for progress. */
  describe(): string {
    const said = this.lines.filter(({ type }) => !type.endsWith("_progress"));
    return [`'${this.#name}' (process ${this.pid}):`, ...said.map((line) => JSON.stringify(line))]
      .join("\n  ") + `\n${this.#stderr}`;
  }

  /** Kills it when it still runs, which only a test that has failed leaves it to. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#isOver) return;
    console.error(`Killed: ${this.describe()}`);
    this.#child.kill("SIGKILL");
    await this.#child.status;
  }

  async #run(): Promise<AgentEnd> {
    try {
      const [, , { code }] = await Promise.all([
        this.#readLines(),
        this.#readStderr(),
        this.#child.status,
      ]);
      this.#isOver = true;
      const last = this.lines.at(-1);
      const account = last?.type === "account" ? last : null;
      return {
        code,
        lines: this.lines,
        account,
        error: last?.type === "error" ? last : account?.error ?? null,
      };
    } finally {
      this.#changed.resolve();
    }
  }

  async #readLines(): Promise<void> {
    const lines = this.#child.stdout
      .pipeThrough(new TextDecoderStream())
      .pipeThrough(new TextLineStream());
    for await (const text of lines) {
      this.lines.push(v.parse(LineSchema, JSON.parse(text)));
      this.#changed.resolve();
      this.#changed = Promise.withResolvers();
    }
  }

  async #readStderr(): Promise<void> {
    for await (const text of this.#child.stderr.pipeThrough(new TextDecoderStream())) {
      this.#stderr += text;
    }
  }
}

/** The command that runs the program under test. */
export function agentCommand(): string[] {
  const executable = Deno.env.get("MIGRATE_AGENT");
  if (executable) return [executable];
  const main = new URL("../../agents/main.ts", import.meta.url).pathname;
  return [Deno.execPath(), "run", "--quiet", "--no-check", "--allow-all", main];
}
