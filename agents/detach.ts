// `receive --detach`: starts this program again without the terminal, waits until it listens, and
// leaves it to itself. The second process writes its JSON lines to a log file.

import { TextLineStream } from "@std/streams/text-line-stream";
import { toText } from "@std/streams/to-text";
import type { ReceiveOptions } from "../src/cli/receive_command.ts";
import { AgentError, describeError, quote } from "../src/base/errors.ts";

/**
 * Set for the second process: there, --detach means "you are the one". Not an option, so that nobody
 * can give it by accident.
 */
const DETACHED_ENV = "MIGRATE_AGENT_DETACHED";

/** Whether this is the process that lives on. */
export function isDetached(): boolean {
  return Deno.env.get(DETACHED_ENV) === "1";
}

/** Where the process that lives on writes: --log, else a file of its own in the run folder. */
export async function openLog(
  options: ReceiveOptions,
): Promise<{ path: string; file: Deno.FsFile }> {
  const path = options.log ?? `${options.runDir}/receive-${Deno.pid}.log`;
  try {
    if (options.log === null) await Deno.mkdir(options.runDir, { recursive: true, mode: 0o700 });
    return { path, file: await Deno.open(path, { append: true, create: true, mode: 0o600 }) };
  } catch (cause) {
    throw new AgentError(
      "log_unusable",
      `Cannot write the log ${quote(path)}: ${describeError(cause)}`,
      {
        kind: "usage",
        hint: "name another file with --log",
        cause,
      },
    );
  }
}

/**
 * Starts the second process with the same arguments. Gives the line that it prints when it listens,
 * or what it said instead and its exit code.
 */
export async function detach(
  args: readonly string[],
): Promise<{ listening: string } | { exitCode: number; said: string }> {
  const program = Deno.build.standalone ? [] : ["run", "--allow-all", Deno.mainModule];
  const child = new Deno.Command(Deno.execPath(), {
    args: [...program, ...args],
    env: { [DETACHED_ENV]: "1" },
    detached: true, // a session of its own: the terminal's hang-up and Ctrl-C do not reach it
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const lines = child.stdout
    .pipeThrough(new TextDecoderStream())
    .pipeThrough(new TextLineStream())
    .getReader();
  const { value } = await lines.read();
  if (value !== undefined) {
    child.unref();
    return { listening: value };
  }
  const [said, status] = await Promise.all([toText(child.stderr), child.status]);
  return { exitCode: status.code, said };
}
