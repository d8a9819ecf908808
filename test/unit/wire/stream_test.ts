import { assert, assertEquals, assertRejects } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import { INITIAL_CREDIT_BYTES } from "../../../src/wire/stream.ts";
import { settle } from "./memory_link.ts";
import { never, RawPeer, readAll, SessionPair } from "./session_fixture.ts";

const text = (value: string) => new TextEncoder().encode(value);

/** Whether a promise has settled by now. */
async function state(promise: Promise<unknown>): Promise<string> {
  let result = "waits";
  promise.then(() => result = "resolved", () => result = "rejected");
  await settle();
  return result;
}

Deno.test("a writer waits when the credit is used up, and goes on with what it is given", async () => {
  await using peer = new RawPeer();
  await peer.preface();
  const stream = peer.session.openStream("ram");
  const writing = stream.write(new Uint8Array(INITIAL_CREDIT_BYTES + 100));
  assertEquals(await state(writing), "waits");
  const sent = () =>
    peer.seen.reduce((sum, frame) => sum + (frame.type === "data" ? frame.length : 0), 0);
  assertEquals(sent(), INITIAL_CREDIT_BYTES);
  await peer.send({ type: "credit", stream: 2, bytes: 60 });
  assertEquals(await state(writing), "waits");
  assertEquals(sent(), INITIAL_CREDIT_BYTES + 60);
  await peer.send({ type: "credit", stream: 2, bytes: 60 });
  assertEquals(await writing, INITIAL_CREDIT_BYTES + 100);
  assertEquals(sent(), INITIAL_CREDIT_BYTES + 100);
});

Deno.test("credit is given when a stream is accepted, and back when half a window is read", async () => {
  await using peer = new RawPeer({ windowBytes: INITIAL_CREDIT_BYTES + 1000 });
  await peer.preface();
  const credits = () => peer.seen.flatMap((frame) => frame.type === "credit" ? [frame.bytes] : []);
  await peer.send({ type: "open", stream: 1, kind: "ram" });
  await peer.send({ type: "data", stream: 1, data: new Uint8Array(200_000) });
  await settle();
  assertEquals(credits(), []);
  const stream = await peer.session.acceptStream("ram", never);
  await settle();
  assertEquals(credits(), [1000]);
  const half = (INITIAL_CREDIT_BYTES + 1000) / 2;
  assertEquals(await stream.read(new Uint8Array(half - 1)), half - 1);
  await settle();
  assertEquals(credits(), [1000]);
  assertEquals(await stream.read(new Uint8Array(10)), 10);
  await settle();
  assertEquals(credits(), [1000, half + 9]);
});

Deno.test("a stream that nobody reads holds up nothing but itself", async () => {
  await using pair = new SessionPair();
  const [slowA, slowB] = await pair.stream("ram");
  const [controlA, controlB] = await pair.stream("control");
  const size = 4 * 1024 * 1024 + 5000;
  const writing = slowA.write(new Uint8Array(size)).then(() => slowA.closeWrite());
  assertEquals(await state(writing), "waits");
  const buffer = new Uint8Array(100);
  for (let i = 0; i < 10; i++) {
    await controlA.write(text(`ping ${i}`));
    assertEquals(await controlB.read(buffer), 6);
    await controlB.write(text("pong"));
    assertEquals(await controlA.read(buffer), 4);
  }
  assertEquals(await state(writing), "waits");
  assertEquals((await readAll(slowB)).length, size);
  await writing;
});

Deno.test("half-close ends one direction, loses nothing, and leaves the other open", async () => {
  await using pair = new SessionPair();
  const [a, b] = await pair.stream();
  await a.write(text("question"));
  await a.closeWrite();
  await a.closeWrite(); // the same again changes nothing
  await settle();
  assertEquals(await readAll(b), text("question"));
  assertEquals(await b.read(new Uint8Array(1)), null);
  await assertRejects(() => a.write(text("x")), AgentError, "half-closed");
  assert(!a.closed && !b.closed);
  await b.write(text("answer"));
  await b.closeWrite();
  await settle();
  assert(a.closed && b.closed);
  assertEquals(await readAll(a), text("answer"));
});

Deno.test("a half-close waits for the writes before it", async () => {
  await using peer = new RawPeer();
  await peer.preface();
  const stream = peer.session.openStream("ram");
  const all = Promise.all([
    stream.write(new Uint8Array(INITIAL_CREDIT_BYTES)),
    stream.write(text("more")),
    stream.closeWrite(),
  ]);
  assertEquals(await state(all), "waits");
  await peer.send({ type: "credit", stream: 2, bytes: 4 });
  await all;
  assertEquals(peer.seen.slice(-2).map((frame) => frame.type), ["data", "end"]);
});

Deno.test("reset: both sides fail, unread data is gone, the session goes on", async () => {
  await using pair = new SessionPair();
  const [a, b] = await pair.stream();
  const stuck = a.write(new Uint8Array(5 * 1024 * 1024)); // more than the window
  const reading = a.read(new Uint8Array(1)).then(() => {}, (error) => error);
  assertEquals(await a.read(new Uint8Array(100)).catch((error) => error.code), "internal_error");
  assertEquals(await state(stuck), "waits");
  a.reset("cancelled", "stopped by the operator");
  a.reset("again", "changes nothing");
  assertEquals((await reading).code, "stream_reset");
  for (const use of [() => stuck, () => a.read(new Uint8Array(1)), () => a.closeWrite()]) {
    const error = await assertRejects(use, AgentError, "given up here (cancelled)");
    assertEquals(error.code, "stream_reset");
  }
  const told = await assertRejects(() => readAll(b), AgentError);
  assertEquals(told.code, "stream_reset");
  assertEquals(
    told.message,
    "Stream 'ram' was given up by the other agent (cancelled): peer says 'stopped by the operator'",
  );
  await assertRejects(() => b.write(text("x")), AgentError, "by the other agent");
  assert(a.closed && b.closed);
  const [c, d] = await pair.stream();
  await c.write(text("still there"));
  await c.closeWrite();
  assertEquals(await readAll(d), text("still there"));
});

Deno.test("frames that come late for a stream that was reset are dropped", async () => {
  await using peer = new RawPeer();
  await peer.preface();
  await peer.send({ type: "open", stream: 1, kind: "ram" });
  const stream = await peer.session.acceptStream("ram", never);
  stream.reset("enough", "no more");
  await peer.send(
    { type: "data", stream: 1, data: new Uint8Array(200_000) },
    { type: "credit", stream: 1, bytes: 7 },
    { type: "end", stream: 1 },
    { type: "reset", stream: 1, code: "too_late", text: "" },
    { type: "open", stream: 3, kind: "params" },
    { type: "data", stream: 3, data: text("intact") },
    { type: "end", stream: 3 },
  );
  assertEquals(await readAll(await peer.session.acceptStream("params", never)), text("intact"));
});

Deno.test("a reset while a payload is coming in does not disturb the frames after it", async () => {
  await using peer = new RawPeer();
  await peer.preface();
  await peer.send({ type: "open", stream: 1, kind: "ram" });
  const stream = await peer.session.acceptStream("ram", never);
  await peer.link.write(Uint8Array.fromHex("020000000000000100000006616263"));
  await settle();
  stream.reset("enough", "no more");
  await peer.link.write(text("def"));
  await peer.send(
    { type: "open", stream: 3, kind: "params" },
    { type: "data", stream: 3, data: text("intact") },
    { type: "end", stream: 3 },
  );
  assertEquals(await readAll(await peer.session.acceptStream("params", never)), text("intact"));
  await assertRejects(() => stream.read(new Uint8Array(9)), AgentError, "given up here");
});

Deno.test("bytes that were received before the end of the session are still read", async () => {
  await using pair = new SessionPair();
  const [a, b] = await pair.stream();
  await a.write(text("received"));
  await settle();
  pair.a.close();
  await pair.b.done;
  const buffer = new Uint8Array(100);
  assertEquals(await b.read(buffer), 8);
  const error = await assertRejects(() => b.read(buffer), AgentError);
  assertEquals(error.code, "connection_lost");
});
