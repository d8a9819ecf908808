// The connection is lost: where it may be found again the migration goes on, and where it may not the
// guest stays; after the handover the sender asks until it knows.

import { assert, assertEquals } from "@std/assert";
import type { PhaseName } from "../../src/migration/phases.ts";
import { checkOutcome } from "./outcome.ts";
import { namePoint, type Point, runStory, type StoryResult } from "./story.ts";

/** Long enough to be found. */
const RECONNECT_MS = 10_000;
/** Too short for anybody, where nobody can be reached. */
const SHORT_MS = 200;
/** Asked again and again: only the first time in a phase is a point. */
const POLLS = new Set(["query-migrate", "query-block-jobs", "query-status"]);
const WITH_RECONNECT: readonly (PhaseName | null)[] = ["mirror", "ram"];

function warnings({ events }: StoryResult, code: string) {
  return events.filter((event) => event.type === "warning" && event.code === code)
    .map(({ side }) => side).toSorted();
}

/**
 * The disks go through the tunnel: connections from QEMU to QEMU are looked for among the sockets of
 * QEMU's own process, and here that is no QEMU (test/qemu has those).
 */
const TUNNEL = { nbd: "tunnel", reconnectMs: RECONNECT_MS } as const;

async function pointsWithReconnect(): Promise<Point[]> {
  const { points, sender } = await runStory({ options: TUNNEL });
  assertEquals(sender.error, null);
  return points.filter(({ phase, what, nth }) =>
    WITH_RECONNECT.includes(phase) && (nth === 1 || !POLLS.has(what))
  );
}

Deno.test("found again: the migration goes on, and nothing of it is left", async (t) => {
  for (const at of await pointsWithReconnect()) {
    await t.step(namePoint(at), async () => {
      const story = await runStory({ fault: { at, kind: "cut" }, options: TUNNEL });
      assert(story.struck, "the fault was never reached");
      checkOutcome(story);
      const { sender, receiver } = story;
      assertEquals([sender.outcome, receiver?.outcome], ["completed", "completed"], explain(story));
      assertEquals(warnings(story, "connection_found"), ["destination", "source"]);
      assertEquals(story.journals, { source: null, destination: null });
    });
  }
});

Deno.test("lost and found twice", async (t) => {
  const at = (await pointsWithReconnect()).find(({ what }) => what === "asks incoming")!;
  const fault = { at, kind: "cut" } as const;
  const { points } = await runStory({ fault, options: TUNNEL });
  const after = points.slice(points.findIndex((point) => namePoint(point) === namePoint(at)) + 1);
  for (const at of after.filter(({ what }) => /^(asks|answers) (resume|incoming)$/.test(what))) {
    await t.step(namePoint(at), async () => {
      const story = await runStory({ fault, second: { at, kind: "cut" }, options: TUNNEL });
      assert(story.struck, "the second fault was never reached");
      checkOutcome(story);
      assertEquals(story.sender.outcome, "completed", explain(story));
    });
  }
});

function explain({ sender, receiver }: StoryResult): string {
  return `${sender.error?.message}; ${receiver?.error?.message}`;
}

Deno.test("not found again in time: the guest stays, and nothing is left", async (t) => {
  for (const at of await pointsWithReconnect()) {
    await t.step(namePoint(at), async () => {
      const options = { ...TUNNEL, reconnectMs: SHORT_MS };
      const story = await runStory({ fault: { at, kind: "cut for good" }, options });
      assert(story.struck, "the fault was never reached");
      checkOutcome(story);
      assertEquals([story.sender.outcome, story.sender.owner], ["failed", "source"]);
      assertEquals(story.journals.source, null);
    });
  }
});

/** The moments of the handover, and whether the receiver has heard of it. */
const HANDOVER = [
  { what: "asks handover", taken: false },
  { what: "answers handover", taken: true },
];

for (const { what, taken } of HANDOVER) {
  const at = async () => (await runStory()).points.find((point) => point.what === what)!;

  Deno.test(`the link is cut at '${what}': the sender asks again`, async () => {
    const story = await runStory({ fault: { at: await at(), kind: "cut" } });
    checkOutcome(story);
    const ends = taken ? "completed destination" : "failed source";
    assertEquals(`${story.sender.outcome} ${story.sender.owner}`, ends);
    assertEquals(warnings(story, "handover_unanswered"), ["source"]);
    assertEquals(
      story.journals,
      { source: null, destination: null },
      "it was told, so all is said",
    );
  });

  Deno.test(`the link is cut at '${what}', and at the question: it is asked once more`, async (t) => {
    const first = { at: await at(), kind: "cut" } as const;
    const { points } = await runStory({ fault: first });
    const asking = points.filter((point) => /^(asks|answers) ask$/.test(point.what));
    assertEquals(asking.length, 2);
    for (const second of asking) {
      await t.step(namePoint(second), async () => {
        const story = await runStory({ fault: first, second: { at: second, kind: "cut" } });
        assert(story.struck, "the second fault was never reached");
        checkOutcome(story);
        const ends = taken ? "completed destination" : "failed source";
        assertEquals(`${story.sender.outcome} ${story.sender.owner}`, ends);
      });
    }
  });

  Deno.test(`cut for good at '${what}': the source stays paused and says so`, async () => {
    const story = await runStory({
      fault: { at: await at(), kind: "cut for good" },
      options: { handoverTimeoutMs: SHORT_MS },
    });
    checkOutcome(story);
    assertEquals([story.sender.outcome, story.sender.owner], ["uncertain", null]);
    assertEquals(story.journals.source?.state, "handover_sent");
    assertEquals(story.destination.ran, taken);
    // What the sender will be told when it can ask again is written down.
    assertEquals(story.journals.destination?.state, taken ? "running" : "never_ran");
  });
}
