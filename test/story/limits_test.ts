// Time limits: what never comes in each phase, and how the phase ends then.

import { assert, assertEquals } from "@std/assert";
import { type PhaseName, phaseOf, PHASES } from "../../src/migration/phases.ts";
import type { Stall } from "./fake_qemu.ts";
import { checkOutcome } from "./outcome.ts";
import { namePoint, type Point, runStory, type StoryResult, type StoryScript } from "./story.ts";

/** Long enough for everything else in a phase. */
const LIMIT_MS = 4000;

/** What the source's QEMU may never get to, by phase. */
const STALLS: Partial<Record<PhaseName, Stall>> = {
  mirror: "mirror_ready",
  ram: "pre_switchover",
  switchover: "completed",
};

/** Runs a story with a phase that may take no longer than LIMIT_MS, on either side. */
async function runLimited(phase: PhaseName, script: StoryScript): Promise<StoryResult> {
  // The table is the only place that knows a phase's limit: for a test it is another one.
  const row = phaseOf(phase) as { limitMs: number | null };
  const before = row.limitMs;
  row.limitMs = LIMIT_MS;
  try {
    return await runStory(script);
  } finally {
    row.limitMs = before;
  }
}

function checkTimeout(story: StoryResult, phase: PhaseName, held = ""): void {
  checkOutcome(story);
  const { sender } = story;
  switch (phase) {
    case "handover": { // the sender asks over another connection what has become of it
      const taken = held.startsWith("answers");
      const ends = taken ? "completed destination" : "failed source";
      return assertEquals(`${sender.outcome} ${sender.owner}`, ends);
    }
    case "end": // the guest has gone over: a warning is all that is left
      assert(story.events.some(({ type, side }) => type === "warning" && side === "source"));
      return assertEquals(sender.outcome, "completed");
    default:
      assertEquals([sender.outcome, sender.error?.kind, sender.error?.phase], [
        "failed",
        "timeout",
        phase,
      ]);
  }
}

Deno.test("a message that never arrives ends its phase in time", async (t) => {
  const seen = new Set<PhaseName>();
  for (const at of (await runStory()).points.filter(isMessage)) {
    seen.add(at.phase);
    await t.step(namePoint(at), async () => {
      const story = await runLimited(at.phase, { fault: { at, kind: "hold" } });
      assert(story.struck, "the fault was never reached");
      checkTimeout(story, at.phase, at.what);
    });
  }
  for (const { name } of PHASES) {
    assert(seen.has(name) || name in STALLS, `nothing can hold up the phase '${name}'`);
  }
});

for (const [phase, stall] of Object.entries(STALLS) as [PhaseName, Stall][]) {
  Deno.test(`QEMU never gets to '${stall}': the phase '${phase}' ends in time`, async () => {
    checkTimeout(await runLimited(phase, { stall }), phase);
  });

  Deno.test(`--timeout ends the phase '${phase}' as well`, async () => {
    const story = await runStory({ stall, options: { timeoutMs: LIMIT_MS } });
    checkOutcome(story);
    assertEquals([story.sender.error?.code, story.sender.error?.phase], ["timeout", phase]);
    assertEquals(story.receiver?.outcome, "failed");
  });
}

function isMessage({ kind, what }: Point): boolean {
  return kind === "wire" && !what.startsWith("opens ");
}
