import { assertEquals } from "@std/assert";
import { makePhasesDoc } from "../../../scripts/generate_phases_doc.ts";

Deno.test("docs/phases.md is what the table of phases makes", async () => {
  const path = new URL("../../../docs/phases.md", import.meta.url);
  assertEquals(
    await Deno.readTextFile(path),
    makePhasesDoc(),
    "run `deno run -A scripts/generate_phases_doc.ts`",
  );
});
