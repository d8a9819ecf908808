// Every phase x every fault. The rows are not written down here: they are the points that a migration
// without faults passes, so that a new command, message or phase brings its own.

import { assert, assertEquals } from "@std/assert";
import { phaseOf, PHASES } from "../../src/migration/phases.ts";
import { checkOutcome } from "./outcome.ts";
import { type FaultKind, namePoint, type Point, runStory, type StoryResult } from "./story.ts";

/** Asked again and again, or by chance: only the first time in a phase is a point. */
const POLLS = new Set(["query-migrate", "query-block-jobs", "query-status"]);

/** A refusal of these is an answer as good as any; a refused poll may come when it is all over. */
const MAY_BE_REFUSED = new Set([...POLLS, "qom-list-properties"]);

/** For the answer of a receiver that cannot be reached. */
const NOBODY_MS = 50;

const FAULTS: Record<Point["kind"], readonly FaultKind[]> = {
  qmp: ["error", "death", "cut", "noise", "cancel source", "cancel destination"],
  wire: [
    "cut",
    "cut for good",
    "bad frame",
    "bad message",
    "bad body",
    "cancel source",
    "cancel destination",
  ],
};

async function passPoints(): Promise<Point[]> {
  const { points } = await runStory();
  return points.filter(({ what, nth }) => nth === 1 || !POLLS.has(what));
}

Deno.test("every phase has its points", async () => {
  const points = await passPoints();
  for (const { name } of PHASES) {
    assert(points.some(({ phase }) => phase === name), `the phase '${name}' has no point`);
  }
  assertEquals(points.filter(({ phase }) => !PHASES.some(({ name }) => name === phase)), []);
});

for (const kind of ["qmp", "wire"] as const) {
  for (const fault of FAULTS[kind]) {
    Deno.test(`${kind}: '${fault}' at every point`, async (t) => {
      const options = fault === "cut for good" ? { handoverTimeoutMs: NOBODY_MS } : {};
      for (const at of (await passPoints()).filter((point) => point.kind === kind)) {
        if (fault === "bad body" && at.what.startsWith("opens ")) continue; // it has no body
        await t.step(namePoint(at), async () => {
          const story = await runStory({ fault: { at, kind: fault }, options });
          assert(story.struck, "the fault was never reached");
          checkOutcome(story);
          checkVerdict(story, { at, kind: fault });
        });
      }
    });
  }
}

/** What the fault must have led to, besides what holds after any. */
function checkVerdict(story: StoryResult, fault: { at: Point; kind: FaultKind }): void {
  const { at: { phase, kind: where, what }, kind } = fault;
  if (kind !== "cut for good") {
    assert(story.sender.owner !== null, "the receiver could be asked: nothing is in doubt");
  }
  if (!phaseOf(phase).cancellable) return; // from the handover on it may have gone well
  const { outcome } = story.sender;
  if (kind === "cancel source" || kind === "cancel destination") {
    // Of a receiver that gives up, the end of its NBD server may be seen before its last words are heard.
    const unheard = kind === "cancel destination" && story.receiver?.outcome === "cancelled" &&
      story.sender.error?.code === "nbd_unreachable";
    assert(outcome === "cancelled" || story.receiver === null || unheard, describe(story));
  } else if (
    where === "wire" || (kind === "error" && !MAY_BE_REFUSED.has(what)) || kind === "death"
  ) {
    assert(outcome === "failed" || outcome === "refused", describe(story));
  }
}

function describe({ sender, receiver }: StoryResult): string {
  const told = [sender, receiver].map((account) => account && [account.outcome, account.error]);
  return JSON.stringify(told);
}
