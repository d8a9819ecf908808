// Running a program to its end in a test.

export interface CommandOutput {
  code: number;
  stdout: string;
  stderr: string;
}

/** Runs `argv` to its end, whatever its exit code. Cancelling kills it. */
export async function capture(argv: string[], signal: AbortSignal): Promise<CommandOutput> {
  const [program, ...args] = argv;
  if (program === undefined) throw new Error("Nothing to run: the command is empty");
  const output = await new Deno.Command(program, {
    args,
    signal,
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).output();
  signal.throwIfAborted();
  const text = new TextDecoder();
  return {
    code: output.code,
    stdout: text.decode(output.stdout),
    stderr: text.decode(output.stderr),
  };
}

/** Like `capture`, for a program that must succeed; gives its stdout. @throws Error with its output */
export async function run(argv: string[], signal: AbortSignal): Promise<string> {
  const { code, stdout, stderr } = await capture(argv, signal);
  if (code === 0) return stdout;
  throw new Error(`'${argv.join(" ")}' failed with exit code ${code}:\n${stderr}${stdout}`);
}
