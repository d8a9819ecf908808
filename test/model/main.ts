// Explores every interleaving of two agents, their connection, their QEMUs and what may befall them:
// `deno run test/model/main.ts`. What is checked is in invariants.ts; how it is decided what happens,
// in src/migration/ownership.ts. Ends with exit code 1 when something is wrong.

import type { Rule } from "../../src/migration/ownership.ts";
import { type Exploration, explore } from "./explorer.ts";
import { SOUND } from "./world.ts";

type Disks = "copied" | "shared";

/** With copied disks and with shared ones. `used` gets every rule that something happened by. */
export function exploreAll(used = new Set<Rule>()): Record<Disks, Exploration> {
  const run = (disks: Disks) =>
    explore({ ...SOUND, copiedDisks: disks === "copied", used }, { wayOut: true });
  return { copied: run("copied"), shared: run("shared") };
}

/** A finding as it is printed. */
export function describeFinding({ problem, trace }: NonNullable<Exploration["finding"]>): string {
  const story = trace.map((label, index) => `${String(index + 1).padStart(4)}  ${label}`);
  return [`WRONG: ${problem}`, ...story].join("\n");
}

/** The counts as a table in Markdown. */
export function describeCounts(explorations: Record<Disks, Exploration>): string {
  const rows = Object.entries(explorations).map(([disks, exploration]) => {
    const { states, transitions, depth, recoveries } = exploration;
    return `| ${disks} | ${[states, transitions, depth, recoveries].join(" | ")} |`;
  });
  return [
    "| disks | states | transitions | longest shortest way to a state | situations to resolve |",
    "| --- | --- | --- | --- | --- |",
    ...rows,
  ].join("\n");
}

if (import.meta.main) {
  const start = performance.now();
  const explorations = exploreAll();
  console.log(describeCounts(explorations));
  console.log(`${((performance.now() - start) / 1000).toFixed(1)} s`);
  for (const [disks, { finding }] of Object.entries(explorations)) {
    if (!finding) continue;
    console.log(`With ${disks} disks: ${describeFinding(finding)}`);
    Deno.exitCode = 1;
  }
}
