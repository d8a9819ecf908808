// Every point at which a test may strike (src/migration/steps.ts): a run passes all of them, and no
// others; and whatever step fails, on whichever side, the guest is in one place and nothing is left.

import { assert, assertEquals } from "@std/assert";
import { FAULT_POINTS } from "../../src/migration/steps.ts";
import { checkOutcome } from "./outcome.ts";
import { runStory, type StoryResult } from "./story.ts";

/** What a migration of shared disks does not do. */
const STORAGE_STEPS =
  /\.(reach_nbd|start_mirrors|wait_ready|block_writes|finish_mirrors|wait_incoming)\./;

/** After which the guest is the destination's, whatever fails. */
const TAKEN = [
  "source.handover.hand_over.after",
  "destination.handover.resume.before", // it was accepted: the handover goes on
  "destination.handover.resume.after",
];

Deno.test("a migration passes every point once, each side's in the order of the list", async () => {
  const { passed } = await runStory();
  assertEquals(passed.toSorted(), FAULT_POINTS.toSorted());
  for (const when of ["before", "after"]) {
    for (const side of ["source", "destination"]) {
      const own = (point: string) => point.startsWith(side) && point.endsWith(when);
      // Steps of the switchover are done at once: their ends come in any order.
      const settled = when === "after" ? (point: string) => !point.includes(".switchover.") : own;
      assertEquals(
        passed.filter(own).filter(settled),
        FAULT_POINTS.filter(own).filter(settled),
      );
    }
  }
});

Deno.test("without --copy-storage all points but those of the mirrors", async () => {
  const { passed } = await runStory({ options: { copyStorage: false } });
  const missing = FAULT_POINTS.filter((point) => !passed.includes(point));
  assertEquals(
    missing.filter((point) => !STORAGE_STEPS.test(point)),
    [],
    "only what belongs to the disks is left out",
  );
  assertEquals(passed.filter((point) => !FAULT_POINTS.includes(point)), []);
});

Deno.test("a step that fails, on either side: one guest, and nothing left", async (t) => {
  for (const point of FAULT_POINTS) {
    await t.step(point, async () => {
      const story = await runStory({ failAt: point });
      checkOutcome(story);
      assert(story.sender.owner !== null, "both agents live: nothing is in doubt");
      checkEnd(story, point);
    });
  }
});

function checkEnd({ sender, receiver, source, destination }: StoryResult, point: string): void {
  const [, phase, step] = point.split(".");
  const runs = [source, destination].filter(({ ended, runState }) =>
    !ended && runState === "running"
  );
  assertEquals(runs.length, 1, "one guest runs");
  if (phase === "end" || step === "journal_outcome") { // a warning at most
    return assertEquals([sender.outcome, receiver?.outcome], ["completed", "completed"]);
  }
  if (TAKEN.includes(point)) return assertEquals(sender.owner, "destination");
  assertEquals([sender.outcome, sender.owner], ["failed", "source"]);
  assert(receiver === null || receiver.outcome === "failed", `it is ${receiver?.outcome}`);
}
