import { assertEquals } from "@std/assert";
import type { ErrorKind } from "../../../src/base/errors.ts";
import { EXIT_CODES, exitCodeOf } from "../../../src/cli/exit_codes.ts";

Deno.test("every kind of error has its own exit code, and success has 0", () => {
  // A kind that is added to the type and not here does not compile.
  const expected: Record<ErrorKind, number> = {
    internal: 1,
    usage: 2,
    refused: 3,
    failed: 4,
    cancelled: 5,
    uncertain: 6,
    link: 7,
    timeout: 8,
  };
  for (const [kind, code] of Object.entries(expected)) {
    assertEquals(exitCodeOf(kind as ErrorKind), code, kind);
  }
  assertEquals(exitCodeOf(null), 0);
  assertEquals(EXIT_CODES.length, Object.keys(expected).length + 1);
});
