import { assertEquals, assertRejects } from "@std/assert";
import { AsyncQueue } from "../../../src/base/queue.ts";

const never = new AbortController().signal;

Deno.test("values come in order, whether they or their taker came first", async () => {
  const queue = new AsyncQueue<number>();
  queue.push(1);
  queue.push(2);
  assertEquals(queue.size, 2);
  assertEquals([await queue.take(never), await queue.take(never)], [1, 2]);
  const waiting = [queue.take(never), queue.take(never)];
  queue.push(3);
  queue.push(4);
  assertEquals(await Promise.all(waiting), [3, 4]);
});

Deno.test("after the end what is queued can still be taken; then null, or the error", async () => {
  const closed = new AsyncQueue<string>();
  closed.push("last");
  closed.close();
  closed.push("ignored");
  assertEquals([await closed.take(never), await closed.take(never)], ["last", null]);
  const failed = new AsyncQueue<string>();
  failed.push("last");
  failed.fail(new Error("broken"));
  assertEquals(await failed.take(never), "last");
  await assertRejects(() => failed.take(never), Error, "broken");
});

Deno.test("the end reaches those who wait, and only the first end counts", async () => {
  const queue = new AsyncQueue<string>();
  const waiting = [queue.take(never), queue.take(never)];
  queue.close();
  queue.fail(new Error("too late"));
  assertEquals(await Promise.all(waiting), [null, null]);
  assertEquals(await queue.take(never), null);
});

Deno.test("a cancelled take loses no value", async () => {
  const queue = new AsyncQueue<number>();
  const controller = new AbortController();
  const waiting = queue.take(controller.signal);
  controller.abort(new Error("stop"));
  await assertRejects(() => waiting, Error, "stop");
  queue.push(1);
  assertEquals(await queue.take(never), 1);
});

Deno.test("a value that comes in the turn of the cancellation is put back, in front", async () => {
  const queue = new AsyncQueue<number>();
  const controller = new AbortController();
  const waiting = queue.take(controller.signal);
  controller.abort(new Error("stop"));
  queue.push(1);
  queue.push(2);
  await assertRejects(() => waiting, Error, "stop");
  assertEquals([await queue.take(never), await queue.take(never)], [1, 2]);
});

Deno.test("an aborted signal takes nothing", async () => {
  const queue = new AsyncQueue<number>();
  queue.push(1);
  await assertRejects(() => queue.take(AbortSignal.abort(new Error("no"))), Error, "no");
  assertEquals(queue.size, 1);
});

Deno.test("values that are no objects count as values", async () => {
  const queue = new AsyncQueue<number | undefined | string>();
  queue.push(0);
  queue.push("");
  assertEquals([await queue.take(never), await queue.take(never)], [0, ""]);
});
