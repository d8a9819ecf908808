// The fault matrix as a whole: which cases there are, and running them.

import { agentCommand } from "../lib/agents.ts";
import { run } from "../lib/command.ts";
import { type CaseResult, runCase } from "./case.ts";
import type { Fault } from "./faults.ts";

/** The points as the program itself names them. */
export async function listPoints(signal: AbortSignal): Promise<string[]> {
  return (await run([...agentCommand(), "help", "fault-points"], signal)).trim().split("\n");
}

/** A case that could not be run to its end is one with a problem. */
export async function runToEnd(point: string, fault: Fault): Promise<CaseResult> {
  try {
    return await runCase(point, fault);
  } catch (error) {
    return {
      ...{
        point,
        fault,
        reached: true,
        codes: null,
        commands: 0,
        again: false,
        guest: "none",
        stall: null,
      },
      problems: [error instanceof Error ? error.stack ?? error.message : String(error)],
    };
  }
}
