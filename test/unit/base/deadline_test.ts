import { assert, assertEquals, assertRejects, assertStrictEquals } from "@std/assert";
import { abortable, abortReason, Deadline, delay } from "../../../src/base/deadline.ts";
import { AgentError } from "../../../src/base/errors.ts";

const limitError = () => new AgentError("late", "Too late", { kind: "timeout" });

Deno.test("abortReason: an error as it is, anything else as one", () => {
  const error = new Error("why");
  assertStrictEquals(abortReason(AbortSignal.abort(error)), error);
  assertEquals(abortReason(AbortSignal.abort("stop")).message, "stop");
  assert(abortReason(AbortSignal.abort()) instanceof Error);
});

Deno.test("abortable: the promise's own outcome when it comes first", async () => {
  const { signal } = new AbortController();
  assertEquals(await abortable(Promise.resolve(7), signal), 7);
  await assertRejects(() => abortable(Promise.reject(new Error("own")), signal), Error, "own");
});

Deno.test("abortable: the signal's reason when that comes first; a late failure hurts nobody", async () => {
  const controller = new AbortController();
  const work = Promise.withResolvers<void>();
  const waiting = abortable(work.promise, controller.signal);
  controller.abort(new Error("stopped"));
  await assertRejects(() => waiting, Error, "stopped");
  work.reject(new Error("late"));
  const early = AbortSignal.abort(new Error("before"));
  await assertRejects(() => abortable(Promise.reject(new Error("own")), early), Error, "before");
});

Deno.test("abortable: leaves no listener behind", async () => {
  const controller = new AbortController();
  let listeners = 0;
  const { signal } = controller;
  const add = signal.addEventListener.bind(signal);
  const remove = signal.removeEventListener.bind(signal);
  signal.addEventListener = (...args: Parameters<typeof add>) => (listeners++, add(...args));
  signal.removeEventListener = (...args: Parameters<typeof remove>) => (
    listeners--, remove(...args)
  );
  await abortable(Promise.resolve(), signal);
  await Promise.resolve();
  assertEquals(listeners, 0);
});

Deno.test("Deadline: aborts with the error that it was given, once the time has passed", async () => {
  using deadline = new Deadline(1, limitError);
  const { promise, resolve } = Promise.withResolvers<void>();
  deadline.signal.addEventListener("abort", () => resolve());
  await promise;
  assertEquals((deadline.signal.reason as AgentError).code, "late");
});

Deno.test("Deadline: the parent's reason counts, before and after it was made", () => {
  const parent = new AbortController();
  using deadline = new Deadline(Infinity, limitError, parent.signal);
  assert(!deadline.signal.aborted);
  const reason = new Error("parent");
  parent.abort(reason);
  assertStrictEquals(deadline.signal.reason, reason);
  using late = new Deadline(60_000, limitError, parent.signal);
  assertStrictEquals(late.signal.reason, reason);
}); // the sanitizer sees to it that no timer is left

Deno.test("delay: ends with time or with the signal's reason", async () => {
  await delay(0);
  const controller = new AbortController();
  const waiting = delay(60_000, controller.signal);
  controller.abort(new Error("enough"));
  await assertRejects(() => waiting, Error, "enough");
  await assertRejects(() => delay(0, controller.signal), Error, "enough");
});
