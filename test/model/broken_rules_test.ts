import { assert, assertStringIncludes } from "@std/assert";
import { MISTAKES, settingOf } from "./broken_rules.ts";
import { explore } from "./explorer.ts";
import { describeFinding } from "./main.ts";

for (const mistake of MISTAKES) {
  Deno.test(`the model finds out that ${mistake.what}`, () => {
    const { finding } = explore(settingOf(mistake), { wayOut: mistake.stuck === true });
    assert(finding, "nothing was found");
    assertStringIncludes(describeFinding(finding), mistake.finds);
    assert(finding.trace.length > 0, "the finding has no story");
  });
}
