import { assertEquals, assertThrows } from "@std/assert";
import { makeTables, SAFETY_DOC, STATES_IN_PHASE } from "../../../scripts/generate_safety_doc.ts";
import { replaceParts } from "../../../scripts/markdown.ts";
import { mayRun } from "../../../src/migration/ownership.ts";
import { PHASES } from "../../../src/migration/phases.ts";

Deno.test("docs/safety.md says what the rules and the phases say", async () => {
  const text = await Deno.readTextFile(SAFETY_DOC);
  // What the model counts is held against the document where it is counted: test/model.
  const counts = /<!-- made: counts -->\n\n([^]*?)\n\n<!-- end -->/.exec(text)?.[1] ?? "";
  assertEquals(
    text,
    replaceParts(text, { ...makeTables(), counts }),
    "run `deno run -A scripts/generate_safety_doc.ts`",
  );
});

Deno.test("the phases and the journals say the same about who owns the guest", () => {
  for (const { name, owner, cancellable, guestRuns } of PHASES) {
    const { source, destination } = STATES_IN_PHASE[name];
    const atSource = source.some((state) => mayRun("source", state));
    const atDestination = destination.some((state) => mayRun("destination", state));
    assertEquals([atSource, atDestination], [owner === "source", owner !== "source"], name);
    assertEquals(cancellable, owner === "source", name);
    // Where the guest runs all the time, nobody may be in doubt at any time.
    const sure = source.every((state) => mayRun("source", state)) ||
      destination.every((state) => mayRun("destination", state));
    assertEquals(guestRuns && !sure, false, name);
  }
});

Deno.test("a generated part that has no place, or a place without a part, is an error", () => {
  const text = "a\n<!-- made: one -->\nold\n<!-- end -->\nb\n";
  assertEquals(
    replaceParts(text, { one: "new" }),
    "a\n<!-- made: one -->\n\nnew\n\n<!-- end -->\nb\n",
  );
  assertThrows(() => replaceParts(text, {}), Error, "'one'");
  assertThrows(() => replaceParts(text, { one: "new", two: "more" }), Error, "two");
});
