// Writes docs/phases.md from the table of phases: `deno run -A scripts/generate_phases_doc.ts`. A test
// compares the file with what this makes.

import { type Phase, phaseOf, PHASES, RFC_STEPS } from "../src/migration/phases.ts";
import { code, table } from "./markdown.ts";

const PATH = new URL("../docs/phases.md", import.meta.url);

/** The whole document. */
export function makePhasesDoc(): string {
  return `# The phases of a migration

<!-- Made from src/migration/phases.ts by scripts/generate_phases_doc.ts. Change it there. -->

Both agents go through these phases, in this order. The owner is the host whose guest may run, or,
where the guest is stopped, be continued: in every phase there is exactly one.

${
    table(
      ["phase", "what for", "owner", "guest", "ends with", "time limit", "can be cancelled"],
      PHASES.map((phase) => [
        code(phase.name),
        phase.title + (phase.storageOnly ? " (only with `--copy-storage`)" : ""),
        describeOwner(phase.owner),
        phase.guestRuns ? "runs" : "stopped",
        phase.endsWith,
        phase.limitMs === null ? "`--timeout` only" : `${phase.limitMs / 1000} s`,
        phase.cancellable ? "yes" : "no",
      ]),
    )
  }

## When a phase fails

What each side undoes; what the phases before it have done is undone as well, newest first.

${
    table(
      ["phase", "source", "destination"],
      PHASES.map(({ name, undo }) => [code(name), undo.source, undo.destination]),
    )
  }

The time limits are those of one phase. \`--timeout\` of \`send\` limits everything up to the handover
together.

## The RFC's major steps

The steps of the mail that this project comes from, as they appear in the log and in the \`step\`
events, and the phase that each belongs to.

${
    table(
      ["step", "what happens", "phase"],
      RFC_STEPS.map(({ step, text, phase }) => [String(step), text, code(phaseOf(phase).name)]),
    )
  }
`;
}

export function describeOwner(owner: Phase["owner"]): string {
  return owner === "destination_once_accepted"
    ? "destination, from the moment at which it accepts"
    : owner;
}

if (import.meta.main) await Deno.writeTextFile(PATH, makePhasesDoc());
