// Faults that tests ask for (`--fail-at`): a step fails, this process dies, or it stands still at a
// point until it is told to go on, so that a test can strike elsewhere meanwhile.

import { AgentError, quote } from "../src/base/errors.ts";
import type { Fault } from "../src/cli/agent_options.ts";
import type { MigrationOptions } from "../src/migration/migration.ts";

/** What a migration calls at every point; undefined without a fault, so that it costs nothing. */
export function faultAt(
  fault: Fault | null,
  { say }: { say: (text: string) => void },
): MigrationOptions["pass"] | undefined {
  if (fault === null) return undefined;
  // Whoever sends it cannot know whether this process still stands still: it must not die of that.
  if (fault.action === "hold") Deno.addSignalListener("SIGUSR1", () => {});
  let struck = false;
  return async (point, signal) => {
    if (struck || point !== fault.point) return;
    struck = true;
    switch (fault.action) {
      case "error":
        throw new AgentError("fault_injected", `--fail-at ${quote(point)} has struck`);
      case "kill":
        return Deno.kill(Deno.pid, "SIGKILL");
      case "hold":
        return await hold(signal, () => say(`Holding at ${point}: SIGUSR1 lets it go on`));
    }
  };
}

/** Until SIGUSR1, or until the migration has ended otherwise: what comes next finds that out. */
async function hold(signal: AbortSignal, say: () => void): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const goOn = () => resolve();
  Deno.addSignalListener("SIGUSR1", goOn);
  signal.addEventListener("abort", goOn, { once: true });
  try {
    say();
    if (!signal.aborted) await promise;
  } finally {
    Deno.removeSignalListener("SIGUSR1", goOn);
    signal.removeEventListener("abort", goOn);
  }
}
