import { assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import { AttemptLimits, LIMITS, sourceOf } from "../../../src/link/attempts.ts";
import { FakeTimers } from "../wire/fake_timers.ts";
import { never } from "./fixture.ts";

const SMALL = {
  ...LIMITS,
  maxHalfOpen: 4,
  maxHalfOpenPerSource: 2,
  maxFailuresPerSource: 3,
  maxFailures: 5,
};

function make(): { clock: FakeTimers; limits: AttemptLimits } {
  const clock = new FakeTimers();
  return { clock, limits: new AttemptLimits(SMALL, clock) };
}

function refusedAs(limits: AttemptLimits, address: string): string | null {
  try {
    limits.admit(address)[Symbol.dispose]();
    return null;
  } catch (error) {
    if (error instanceof AgentError && error.kind === "refused") return error.code;
    throw error;
  }
}

function fail(limits: AttemptLimits, address: string): void {
  using admission = limits.admit(address);
  admission.failed();
}

Deno.test("connections that have not proved are counted, each source's and all", () => {
  const { limits } = make();
  const first = limits.admit("192.0.2.1");
  limits.admit("192.0.2.1");
  assertEquals(refusedAs(limits, "192.0.2.1"), "too_many_connections");
  limits.admit("192.0.2.2");
  limits.admit("192.0.2.3");
  assertEquals(refusedAs(limits, "192.0.2.4"), "too_many_connections");
  first[Symbol.dispose]();
  first[Symbol.dispose]();
  assertEquals(refusedAs(limits, "192.0.2.1"), null);
  limits.admit("192.0.2.4");
  assertEquals(refusedAs(limits, "192.0.2.5"), "too_many_connections");
});

Deno.test("a source that fails too often is turned away for a while, others are not", async () => {
  const { clock, limits } = make();
  for (let i = 0; i < 3; i++) fail(limits, "192.0.2.1");
  assertEquals(refusedAs(limits, "192.0.2.1"), "too_many_failures");
  assertEquals(refusedAs(limits, "192.0.2.2"), null);
  await clock.advance(SMALL.pauseMs);
  assertEquals(refusedAs(limits, "192.0.2.1"), null);
});

Deno.test("failures that are far apart do not add up", async () => {
  const { clock, limits } = make();
  for (let i = 0; i < 10; i++) {
    fail(limits, "192.0.2.1");
    await clock.advance(SMALL.windowMs / 2 + 1);
  }
  assertEquals(refusedAs(limits, "192.0.2.1"), null);
});

Deno.test("many sources together make a pause for all but those that have proved", () => {
  const { limits } = make();
  limits.admit("192.0.2.99").proved();
  for (let i = 0; i < 5; i++) fail(limits, `192.0.2.${i}`);
  assertEquals(refusedAs(limits, "192.0.2.50"), "too_many_failures");
  assertEquals(refusedAs(limits, "192.0.2.99"), null);
});

Deno.test("a proof makes the failures before it good", () => {
  const { limits } = make();
  for (let i = 0; i < 2; i++) fail(limits, "192.0.2.1");
  using admission = limits.admit("192.0.2.1");
  admission.proved();
  fail(limits, "192.0.2.1");
  assertEquals(refusedAs(limits, "192.0.2.1"), null);
});

Deno.test("memory is bounded: the source that was silent for longest is forgotten", () => {
  const clock = new FakeTimers();
  const limits = new AttemptLimits({ ...SMALL, maxFailures: Infinity }, clock);
  const paused = (n: number) => `10.0.${n >> 8}.${n & 255}`;
  for (let n = 0; n < 1025; n++) for (let i = 0; i < 3; i++) fail(limits, paused(n));
  assertEquals(refusedAs(limits, paused(1024)), "too_many_failures");
  assertEquals(refusedAs(limits, paused(0)), null);
});

Deno.test("the deadline says how long was waited, and is gone once it is not needed", async () => {
  const { clock, limits } = make();
  const deadline = limits.deadline(never);
  await clock.advance(SMALL.handshakeMs);
  const error = assertThrows(() => deadline.signal.throwIfAborted(), AgentError);
  assertEquals(error.code, "handshake_timeout");
  assertStringIncludes(error.message, "10 seconds");
  limits.deadline(never)[Symbol.dispose]();
  assertEquals(clock.count, 0);
});

Deno.test("the delay ends early when it is cancelled, and leaves no timer", async () => {
  const { clock, limits } = make();
  const cancel = new AbortController();
  const waiting = limits.delay(cancel.signal);
  cancel.abort(new AgentError("interrupted", "stopped", { kind: "cancelled" }));
  await assertRejects(() => waiting, AgentError, "stopped");
  assertEquals(clock.count, 0);
});

Deno.test("what counts as one source", () => {
  const cases: [string, string][] = [
    ["192.0.2.1", "192.0.2.1"],
    ["::ffff:192.0.2.1", "192.0.2.1"],
    ["2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"],
    ["2001:DB8:1:2::9", "2001:db8:1:2::/64"],
    ["2001:db8::9", "2001:db8:0:0::/64"],
    ["::1", "0:0:0:0::/64"],
    ["fe80::1%eth0", "fe80:0:0:0::/64"],
    ["1::", "1:0:0:0::/64"],
  ];
  for (const [address, source] of cases) assertEquals(sourceOf(address), source);
});
