// The stories as they go when nothing is wrong, and a few turns that the matrix does not take.

import { assert, assertEquals, assertRejects } from "@std/assert";
import { serveConnection } from "../../agents/reception.ts";
import { AgentError } from "../../src/base/errors.ts";
import { PHASES, RFC_STEPS } from "../../src/migration/phases.ts";
import { StateFolder } from "../../src/migration/state_folder.ts";
import { TempDir } from "../lib/temp.ts";
import { MemoryLink } from "../unit/wire/memory_link.ts";
import { checkOutcome } from "./outcome.ts";
import { FakeHost } from "./fake_host.ts";
import { namePoint, runStory, type StoryResult } from "./story.ts";

const ALL_PHASES = PHASES.map(({ name }) => name);

function phasesOf(story: StoryResult, side: string): (string | null)[] {
  return story.events.filter((event) => event.type === "phase" && event.side === side)
    .map(({ phase }) => phase);
}

function stepsOf(story: StoryResult, side: string): number[] {
  return story.events.flatMap((event) =>
    event.type === "step" && event.side === side ? [event.step] : []
  );
}

Deno.test("a guest goes over with its disks: every phase, every step, on both sides", async () => {
  const story = await runStory();
  checkOutcome(story);
  for (const side of ["source", "destination"]) {
    assertEquals(phasesOf(story, side), ALL_PHASES);
    assertEquals(stepsOf(story, side), RFC_STEPS.map(({ step }) => step));
  }
  assertEquals([story.sender.outcome, story.receiver?.outcome], ["completed", "completed"]);
  assertEquals([story.sender.owner, story.sender.running], ["destination", true]);
  assertEquals(story.destination.runState, "running");
  assert(story.source.ended, "the source's QEMU was ended");
  assertEquals(story.leftTargets, ["disk-0", "disk-1"]);
  assertEquals(story.sender.disks.map(({ copied_bytes: bytes }) => bytes), [1 << 20, 1 << 20]);
});

Deno.test("without --copy-storage there is no mirror phase, and no disk command", async () => {
  const story = await runStory({ options: { copyStorage: false } });
  checkOutcome(story);
  for (const side of ["source", "destination"]) {
    assertEquals(phasesOf(story, side), ALL_PHASES.filter((name) => name !== "mirror"));
  }
  const commands = story.points.map(({ what }) => what);
  for (const command of ["blockdev-add", "blockdev-mirror", "nbd-server-start"]) {
    assert(!commands.includes(command), command);
  }
  assertEquals(story.sender.outcome, "completed");
  assertEquals(story.leftTargets, []);
});

Deno.test("a paused guest arrives paused, and is never continued", async () => {
  const story = await runStory({ paused: true });
  checkAccountOf(story);
  assertEquals(story.destination.runState, "paused");
  assert(!story.points.some(({ what }) => what === "cont"));
  assertEquals([story.sender.owner, story.sender.running], ["destination", false]);
});

function checkAccountOf(story: StoryResult): void {
  assertEquals(story.violations, []);
  assertEquals([story.sender.outcome, story.receiver?.outcome], ["completed", "completed"]);
}

Deno.test("the source's QEMU stays when it is told to, and its guest stays paused", async () => {
  const story = await runStory({ options: { sourceAfter: "paused" } });
  checkOutcome(story);
  assertEquals([story.source.ended, story.source.runState], [false, "postmigrate"]);
});

Deno.test("the mirrors end before the memory is finished, the NBD server before the guest runs", async () => {
  const { points } = await runStory();
  const order = points.map(({ side, what }) => `${side} ${what}`);
  const inOrder = [
    "destination nbd-server-start",
    "source blockdev-mirror",
    "source migrate",
    "source block-job-cancel",
    "source job-dismiss",
    "source migrate-continue",
    "destination nbd-server-stop",
    "destination cont",
    "source quit",
  ];
  const places = inOrder.map((what) => order.indexOf(what));
  assertEquals(places.filter((place) => place < 0), []);
  assertEquals(places, places.toSorted((a, b) => a - b));
});

Deno.test("what cannot be undone is told, and hinders nothing else", async (t) => {
  // Cancelled where there is most to undo; each command of the undoing fails in its turn.
  const clean = await runStory();
  const at = clean.points.find((point) => namePoint(point) === "ram: source query-status")!;
  const strike = { at, kind: "cancel source" } as const;
  const { points } = await runStory({ fault: strike });
  const after = points.findIndex((point) => namePoint(point) === namePoint(at)) + 1;
  const undoing = points.slice(after).filter(({ side, kind }) =>
    side === "source" && kind === "qmp"
  );
  assert(undoing.length > 5);
  for (const point of undoing) {
    await t.step(namePoint(point), async () => {
      const story = await runStory({ fault: strike, second: { at: point, kind: "error" } });
      assertEquals(story.violations, []);
      assertEquals(story.sender.error?.code, "cancelled", "the first error stays the first");
      assert(story.destination.ended);
      const { jobs, nodes, runState } = story.source;
      const left = jobs.length + nodes.length > 0 || runState !== "running";
      assert(!left || story.sender.error!.undo.length > 0, "what is left is told");
      // Only a QEMU that does not let go of its migration keeps its guest paused.
      const paused = ["query-migrate", "migrate_cancel"].includes(point.what);
      assert(paused || runState === "running", "the guest runs on");
    });
  }
});

Deno.test("a connection that says nothing is no migration, and is closed once", async () => {
  await using temp = await TempDir.create();
  const [near, far] = MemoryLink.pair();
  const unexpected = () => {
    throw new Error("nothing is to be started");
  };
  const served = serveConnection({
    link: near,
    peer: "nobody",
    reachedHost: "::1",
    encrypted: false,
    migrationId: "",
    rememberFor: unexpected,
  }, {
    claim: unexpected,
    host: new FakeHost({ folder: "/", start: unexpected }),
    state: await StateFolder.open(temp.file("state")),
    living: new Map(),
    nbd: { host: "127.0.0.1", ports: null },
    allowPlainNbd: true,
    peerTimeoutMs: 10_000,
    makeMigration: unexpected,
    recall: unexpected,
  }, new AbortController().signal);
  await far.closeWrite();
  await assertRejects(() => served, AgentError);
  assert(near.closed);
});

Deno.test("disks go through the tunnel, and nothing of it is left", async () => {
  const story = await runStory({ options: { nbd: "tunnel" } });
  checkOutcome(story);
  assertEquals(story.sender.outcome, "completed");
});
