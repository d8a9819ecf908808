import { assertEquals, assertStringIncludes } from "@std/assert";
import { type Rule, RULES } from "../../src/migration/ownership.ts";
import { describeCounts, describeFinding, exploreAll } from "./main.ts";

Deno.test("no interleaving leads to two guests, or to none, or to what resolve cannot put in order", async () => {
  const used = new Set<Rule>();
  const explorations = exploreAll(used);
  for (const { finding } of Object.values(explorations)) {
    assertEquals(finding && describeFinding(finding), null);
  }
  const all: Rule[] = [...RULES.source, ...RULES.destination];
  const unused = all.filter((rule) => rule.next !== undefined && !used.has(rule));
  assertEquals(unused, [], "rules that nothing in the model leads to");
  const doc = await Deno.readTextFile(new URL("../../docs/safety.md", import.meta.url));
  assertStringIncludes(
    doc,
    describeCounts(explorations),
    "run `deno run -A scripts/generate_safety_doc.ts`",
  );
});
