// The fault matrix: every named point, as the program itself lists them, under every fault.
//   deno task test:fault                              all of it
//   deno task test:fault --point .ram. --fault cut    what contains these words; can be repeated
//   deno task test:fault --jobs 2                     two cases at a time
// Prints a line a case as it ends, then the table; exit code 1 when anything did not hold.

import { parseArgs } from "@std/cli/parse-args";
import type { CaseResult } from "./case.ts";
import { FAULTS } from "./faults.ts";
import { listPoints, runToEnd } from "./matrix.ts";
import { describeCase, renderTable } from "./table.ts";

if (import.meta.main) {
  const args = parseArgs(Deno.args, {
    string: ["point", "fault", "repeat", "jobs"],
    collect: ["point", "fault"],
  });
  const chosen = (words: unknown) => (name: string) => {
    const all = words as string[];
    return all.length === 0 || all.some((word) => name.includes(word));
  };
  const points = (await listPoints(new AbortController().signal)).filter(chosen(args.point));
  const faults = FAULTS.filter(chosen(args.fault));
  const rounds = Array.from({ length: Number(args.repeat ?? 1) }, () => points);
  const cases = rounds.flat().flatMap((point) => faults.map((fault) => ({ point, fault })));
  const todo = cases.keys();
  const results: CaseResult[] = [];
  const work = async () => {
    for (const at of todo) {
      const { point, fault } = cases[at]!;
      const result = await runToEnd(point, fault);
      console.log(describeCase(result));
      results[at] = result;
    }
  };
  await Promise.all(Array.from({ length: Number(args.jobs ?? 1) }, work));
  console.log(`\n${renderTable(results)}\n`);
  const bad = results.filter(({ problems }) => problems.length > 0).length;
  console.log(`${points.length} points, ${faults.length} faults: ${bad} cases with problems`);
  Deno.exit(bad === 0 ? 0 : 1);
}
