import { assert, assertEquals, assertStrictEquals, assertThrows } from "@std/assert";
import {
  AgentError,
  describeError,
  quote,
  quotePeer,
  toAgentError,
} from "../../../src/base/errors.ts";

Deno.test("quote: marks, escaped control characters, a limit", () => {
  assertEquals(quote("/d/a.raw"), "'/d/a.raw'");
  assertEquals(quote("a\nb\x1b[31m\x7f"), "'a\\x0ab\\x1b[31m\\x7f'");
  assertEquals(quote("\u0085"), "'\\x85'");
  assertEquals(quote("x".repeat(300), 5), "'xxxxx…'");
  assertEquals(quote("x".repeat(5), 5), "'xxxxx'");
});

Deno.test("quotePeer: labelled, so that it cannot pass for our own words", () => {
  assertEquals(quotePeer("all\rgood"), "peer says 'all\\x0dgood'");
  assert(quotePeer("y".repeat(1000)).length < 420);
});

Deno.test("toAgentError: ours stays itself and gets only what it lacks", () => {
  const error = new AgentError("c", "m", { side: "source" });
  assertStrictEquals(toAgentError(error, { side: "destination", phase: "ram" }), error);
  assertEquals([error.side, error.phase], ["source", "ram"]);
});

Deno.test("toAgentError: what the system refuses is no defect of this program", () => {
  const cause = assertThrows(() => Deno.statSync("/nothing/here"), Deno.errors.NotFound);
  const error = toAgentError(cause, { side: "source" });
  assertEquals([error.code, error.kind, error.side], ["system_error", "failed", "source"]);
});

Deno.test("toAgentError: everything else is a defect of this program", () => {
  const cause = new TypeError("x is not a function");
  const error = toAgentError(cause, { side: "source" });
  assertEquals([error.code, error.kind, error.side], ["internal_error", "internal", "source"]);
  assertStrictEquals(error.cause, cause);
  assertEquals(toAgentError("text").message, "text");
});

Deno.test("describeError: one line for anything", () => {
  assertEquals(describeError(new Error("m")), "m");
  assertEquals(describeError(new RangeError()), "RangeError");
  assertEquals(describeError(5), "5");
});
