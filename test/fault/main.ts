// The fault matrix: every named point, as the program itself lists them, under every fault.
//   deno task test:fault                          all of it
//   deno task test:fault --point ram --fault cut  what contains these words
// Prints a line a case, then the table by outcome; exit code 1 when anything did not hold.

import { parseArgs } from "@std/cli/parse-args";
import { agentCommand } from "../lib/agents.ts";
import { type CaseResult, type Fault, FAULTS, runCase } from "./case.ts";

if (import.meta.main) {
  const { point, fault, repeat } = parseArgs(Deno.args, { string: ["point", "fault", "repeat"] });
  const points = (await listPoints()).filter((name) => name.includes(String(point ?? "")));
  const faults = FAULTS.filter((name) => name.includes(String(fault ?? "")));
  let bad = 0;
  for (let round = 0; round < Number(repeat ?? 1); round++) {
    for (const name of points) {
      for (const fault of faults) {
        const result = await runOne(name, fault);
        if (result.problems.length > 0) bad++;
        console.log(describeCase(result));
      }
    }
  }
  console.log(`${points.length} points, ${faults.length} faults: ${bad} cases with problems`);
  Deno.exit(bad === 0 ? 0 : 1);
}

/** The points as the program itself names them. */
export async function listPoints(): Promise<string[]> {
  const [program, ...args] = agentCommand();
  const { stdout } = await new Deno.Command(program!, {
    args: [...args, "help", "fault-points"],
  }).output();
  return new TextDecoder().decode(stdout).trim().split("\n");
}

/** A case that could not be run to its end is one with a problem. */
async function runOne(point: string, fault: Fault): Promise<CaseResult> {
  try {
    return await runCase(point, fault);
  } catch (error) {
    return {
      point,
      fault,
      reached: true,
      sender: -1,
      receiver: -1,
      resolved: 0,
      guest: "none",
      stallMs: null,
      problems: [String(error)],
    };
  }
}

function describeCase(result: CaseResult): string {
  const { point, fault, reached, sender, receiver, resolved, guest, stallMs, problems } = result;
  const outcome = reached
    ? `exit ${sender}/${receiver}, ${resolved} resolve, guest ${guest}${
      stallMs === null ? "" : `, stall ${stallMs} ms`
    }`
    : `not reached: exit ${sender}/${receiver}, guest ${guest}`;
  const verdict = problems.length === 0 ? "ok " : "BAD";
  return [`${verdict} ${point.padEnd(46)} ${fault.padEnd(22)} ${outcome}`, ...problems]
    .join("\n      ");
}
