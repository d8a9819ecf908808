// The command that `xl migrate` runs instead of ssh: joins xl's standard input and output to the
// socket of the agent that started xl. Ends when the agent closes it: xl then lets its guest run on.
// Holds the device model for the agent meanwhile (src/xen/hold.ts).

import { holdForAgent } from "../src/xen/hold.ts";

/** That command; the socket's path is appended. */
export function pipeCommand(): string[] {
  const program = Deno.build.standalone ? [] : ["run", "--allow-all", "--quiet", Deno.mainModule];
  return [Deno.execPath(), ...program, "xen-pipe"];
}

/** @returns the exit status */
export async function pipeXl(socketPath: string): Promise<number> {
  const conn = await Deno.connect({ transport: "unix", path: socketPath });
  const holding = holdForAgent(await Deno.connect({ transport: "unix", path: socketPath }));
  const out = copy(Deno.stdin, conn).then(() => conn.closeWrite());
  out.catch(() => {}); // the agent has closed it: the other direction ends, too
  await copy(conn, Deno.stdout);
  await holding; // also when the agent is dead: xl must not come to the device model before
  return 0;
}

async function copy(
  from: { read(into: Uint8Array): Promise<number | null> },
  to: { write(data: Uint8Array): Promise<number> },
): Promise<void> {
  const buffer = new Uint8Array(1 << 18);
  while (true) {
    const count = await from.read(buffer);
    if (count === null) return;
    for (let at = 0; at < count;) at += await to.write(buffer.subarray(at, count));
  }
}
