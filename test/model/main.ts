// Explores every interleaving of two agents, their connection, their QEMUs and what may befall them:
// `deno run test/model/main.ts`. What is checked is in invariants.ts; how it is decided what happens,
// in src/migration/ownership.ts. Ends with exit code 1 when something is wrong.

import { type Exploration, explore } from "./explorer.ts";
import { SOUND } from "./world.ts";

/** A finding as it is printed. */
export function describeFinding({ problem, trace }: NonNullable<Exploration["finding"]>): string {
  const story = trace.map((label, index) => `${String(index + 1).padStart(4)}  ${label}`);
  return [`WRONG: ${problem}`, ...story].join("\n");
}

if (import.meta.main) {
  for (const copiedDisks of [true, false]) {
    const start = performance.now();
    const { finding, ...counts } = explore({ ...SOUND, copiedDisks });
    const seconds = ((performance.now() - start) / 1000).toFixed(1);
    console.log(
      `${copiedDisks ? "copied" : "shared"} disks: ${counts.states} states, ` +
        `${counts.transitions} transitions, depth ${counts.depth}; ` +
        `the way out followed from ${counts.recoveries} situations; ${seconds} s`,
    );
    if (finding) {
      console.log(describeFinding(finding));
      Deno.exitCode = 1;
    }
  }
}
