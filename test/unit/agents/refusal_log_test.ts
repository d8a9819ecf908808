import { assertEquals } from "@std/assert";
import { RefusalLog } from "../../../agents/refusal_log.ts";
import { AgentError } from "../../../src/base/errors.ts";

Deno.test("the log of refusals says the first ten of a reason, then how many more there were", () => {
  const said: string[] = [];
  let nowMs = 0;
  const log = new RefusalLog((body) => {
    if (body.type === "warning") said.push(`${body.code}: ${body.text}`);
  }, () => nowMs);
  for (let at = 0; at < 500; at++) log.refused(new AgentError("proof_wrong", "not the secret"));
  assertEquals(said.length, 10);
  assertEquals(said[0], "proof_wrong: A connection was refused: not the secret");
  log.refused(new AgentError("link_ended", "it hung up"));
  assertEquals(said.length, 11, "another reason is heard all the same");
  nowMs = 60_000;
  log.refused(new AgentError("proof_wrong", "again"));
  assertEquals(said.slice(11), [
    "proof_wrong: 490 more connections were refused for this reason",
    "proof_wrong: A connection was refused: again",
  ]);
});
