import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import { encodePreface, type ShortFrame } from "../../../src/wire/frame.ts";
import { MAX_PENDING_PER_KIND, MAX_STREAMS, Session } from "../../../src/wire/session.ts";
import { FakeTimers } from "./fake_timers.ts";
import {
  chooseSeed,
  concat,
  MemoryLink,
  randomBytes,
  seededRandom,
  settle,
} from "./memory_link.ts";
import { frameBytes, never, RawPeer, readAll, SessionPair } from "./session_fixture.ts";
import { fromHex } from "./spec_vectors.ts";

const text = (value: string) => new TextEncoder().encode(value);

function reasonOf(session: Session): AgentError {
  assert(session.signal.aborted, "the session goes on");
  return session.signal.reason as AgentError;
}

for (const split of ["one byte at a time", "random splits"]) {
  Deno.test(`streams in both directions arrive whole: ${split}`, async () => {
    const random = seededRandom(chooseSeed());
    await using pair = new SessionPair();
    for (const link of pair.links) {
      link.readLimit = split === "random splits" ? () => Math.floor(random() * 5000) : () => 1;
    }
    const size = split === "random splits" ? 700_000 : 3_000;
    const jobs = (["control", "params", "ram"] as const).map(async (kind) => {
      const [a, b] = await pair.stream(kind);
      const up = randomBytes(size, random);
      const down = randomBytes(size, random);
      const write = async (stream: typeof a, bytes: Uint8Array) => {
        for (let at = 0; at < bytes.length;) {
          const end = at + 1 + Math.floor(random() * 300_000);
          at += await stream.write(bytes.subarray(at, end));
        }
        await stream.closeWrite();
      };
      const [, , gotUp, gotDown] = await Promise.all([
        write(a, up),
        write(b, down),
        readAll(b),
        readAll(a),
      ]);
      assertEquals(gotUp, up);
      assertEquals(gotDown, down);
      assert(a.closed && b.closed);
    });
    await Promise.all(jobs);
    assert(!pair.a.signal.aborted && !pair.b.signal.aborted);
  });
}

Deno.test("a connection cut at any byte is lost, and what was complete is delivered", async () => {
  const data = [text("first"), text("second piece")];
  const recorded = concat([
    encodePreface(),
    ...([
      { type: "open", stream: 1, kind: "control" },
      { type: "data", stream: 1, data: data[0]! },
      { type: "credit", stream: 1, bytes: 5 },
      { type: "ping", opaque: new Uint8Array(8) },
      { type: "open", stream: 3, kind: "ram" },
      { type: "data", stream: 3, data: data[1]! },
      { type: "end", stream: 3 },
      { type: "reset", stream: 1, code: "x", text: "y" },
      { type: "go_away", code: "done", reason: "all is well" },
    ] as const).map(frameBytes),
  ]);
  for (let cut = 0; cut <= recorded.length; cut++) {
    const [peer, link] = MemoryLink.pair();
    const session = new Session(link, { role: "responder", timers: new FakeTimers() });
    const ram = session.acceptStream("ram", never).then(readAll);
    const control = session.acceptStream("control", never).then(readAll);
    await peer.write(recorded.subarray(0, cut));
    await peer.closeWrite();
    const results = await Promise.allSettled([ram, control, session.done]);
    const whole = cut === recorded.length;
    assertEquals(reasonOf(session).code, whole ? "peer_went_away" : "connection_lost", `at ${cut}`);
    assertEquals(session.peerGoAway !== null, whole);
    // Only a stream whose end came has been read to its end.
    const got = results[0].status === "fulfilled" ? results[0].value : null;
    if (got !== null) assertEquals(got, data[1]);
    const endAt = recorded.length - frameBytes({ type: "reset", stream: 1, code: "x", text: "y" })
      .length -
      frameBytes({ type: "go_away", code: "done", reason: "all is well" }).length;
    assertEquals(got !== null, cut >= endAt, `at ${cut}`);
    assertEquals(results[1].status, "rejected");
    assert(link.closed);
  }
});

const open = { type: "open", stream: 1, kind: "ram" } as const;
const VIOLATIONS: [string, (Uint8Array | ShortFrame)[]][] = [
  ["an unknown type", [fromHex("0a 00 0000 00000000 00000000")]],
  ["an unknown flag", [fromHex("06 80 0000 00000000 00000008")]],
  ["an oversize frame", [open, fromHex("02 00 0000 00000001 00040001")]],
  ["data on a stream that was never opened", [
    frameBytes({ type: "data", stream: 1, data: text("x") }),
  ]],
  ["credit on one of our streams that was never opened", [{
    type: "credit",
    stream: 2,
    bytes: 1,
  }]],
  ["an even stream opened by the initiator", [{ type: "open", stream: 2, kind: "ram" }]],
  ["a stream opened twice", [open, open]],
  ["streams opened downwards", [{ type: "open", stream: 3, kind: "ram" }, open]],
  ["data after the end", [
    open,
    { type: "end", stream: 1 },
    frameBytes({ type: "data", stream: 1, data: text("x") }),
  ]],
  ["two ends", [open, { type: "end", stream: 1 }, { type: "end", stream: 1 }]],
  ["too much credit", [open, { type: "credit", stream: 1, bytes: 2 ** 31 - 1 }]],
  ["data beyond the credit", [
    open,
    frameBytes({ type: "data", stream: 1, data: new Uint8Array(262144) }),
    frameBytes({ type: "data", stream: 1, data: new Uint8Array(1) }),
  ]],
];

for (const [name, frames] of VIOLATIONS) {
  Deno.test(`a protocol error ends the session with a go-away: ${name}`, async () => {
    await using peer = new RawPeer();
    await peer.preface();
    for (const frame of frames) {
      await peer.link.write(frame instanceof Uint8Array ? frame : frameBytes(frame));
    }
    await settle();
    const reason = reasonOf(peer.session);
    assertEquals([reason.code, reason.kind], ["protocol_error", "link"]);
    const last = peer.seen.at(-1)!;
    assertEquals(last, { type: "go_away", code: "protocol_error", reason: reason.message });
    assert(peer.sessionLink.writeClosed && !peer.sessionLink.closed, "it reads on");
    await peer.link.closeWrite();
    await peer.session.done;
    assert(peer.sessionLink.closed);
    assertEquals(peer.timers.count, 0);
  });
}

Deno.test("another protocol is not answered with frames", async () => {
  await using peer = new RawPeer();
  await peer.link.write(text("GET / HTTP/1.1\r\n\r\n"));
  await peer.session.done;
  assertEquals(reasonOf(peer.session).code, "not_migrate_agent");
  assertEquals(peer.sessionLink.written, encodePreface());
});

Deno.test("a peer that reads no answers is not served without end", async () => {
  await using peer = new RawPeer();
  await peer.preface();
  await settle();
  peer.sessionLink.holdWrites();
  const ping = frameBytes({ type: "ping", opaque: new Uint8Array(8) });
  for (let i = 0; i < 1100; i++) await peer.link.write(ping);
  for (let i = 0; i < 100; i++) await settle();
  assertStringIncludes(reasonOf(peer.session).message, "reads no answers");
  await peer.timers.advance(2000); // it cannot be told either
  assert(peer.sessionLink.closed);
});

Deno.test("streams of unknown kinds and streams too many are refused one by one", async () => {
  await using peer = new RawPeer();
  await peer.preface();
  await peer.send({ type: "open", stream: 1, kind: "video" });
  let id = 3;
  for (let i = 0; i <= MAX_PENDING_PER_KIND; i++, id += 2) {
    await peer.send({ type: "open", stream: id, kind: "ram" });
  }
  await settle();
  const resets = peer.seen.filter((frame) => frame.type === "reset");
  assertEquals(resets.map((frame) => [frame.stream, frame.code]), [
    [1, "unknown_kind"],
    [id - 2, "too_many_pending"],
  ]);
  for (let i = 0; i < MAX_STREAMS; i++, id += 2) {
    await peer.send({ type: "open", stream: id, kind: "params" });
    await settle();
    if (i < MAX_STREAMS - MAX_PENDING_PER_KIND) await peer.session.acceptStream("params", never);
  }
  await settle();
  assertEquals(
    peer.seen.filter((frame) => frame.type === "reset" && frame.code === "too_many_streams").length,
    MAX_PENDING_PER_KIND,
  );
  assert(!peer.session.signal.aborted);
});

Deno.test("go-away: what was written arrives, then the code and the reason", async () => {
  const pair = new SessionPair();
  const [a, b] = await pair.stream();
  await a.write(text("the last words"));
  await a.closeWrite();
  await pair.a.goAway("done", "the migration is complete");
  await pair.b.done;
  assertEquals(reasonOf(pair.a).code, "session_closed");
  assertEquals(reasonOf(pair.b).code, "peer_went_away");
  assertEquals(pair.b.peerGoAway, { code: "done", reason: "the migration is complete" });
  assertEquals(await readAll(b), text("the last words"));
  await assertRejects(() => b.write(text("x")), AgentError, "peer says");
  await assertRejects(() => pair.b.acceptStream("ram", never), AgentError, "peer says");
  await assertRejects(() => a.read(new Uint8Array(1)), AgentError, "ended here");
  assert(pair.links[0].closed && pair.links[1].closed);
  assertEquals(pair.timers.count, 0);
});

Deno.test("go-away: frames that wait go first, and a blocked connection cannot hold it up", async () => {
  for (const blocked of [false, true]) {
    await using peer = new RawPeer();
    await peer.preface();
    const stream = peer.session.openStream("ram");
    await settle();
    peer.sessionLink.holdWrites();
    const writing = stream.write(text("queued")).then(() => "written", (error) => error.code);
    await settle();
    const done = peer.session.goAway("done", "bye");
    if (!blocked) peer.sessionLink.releaseWrites();
    await peer.timers.advance(2000);
    await done;
    assertEquals(await writing, blocked ? "session_closed" : "written");
    if (!blocked) {
      assertEquals(peer.seen.slice(-2).map((frame) => frame.type), ["data", "go_away"]);
    }
    assert(peer.sessionLink.closed);
  }
});

Deno.test("accepting can be cancelled without losing a stream", async () => {
  await using pair = new SessionPair();
  const cancel = new AbortController();
  const waiting = pair.b.acceptStream("ram", cancel.signal);
  cancel.abort(new AgentError("interrupted", "stopped", { kind: "cancelled" }));
  await assertRejects(() => waiting, AgentError, "stopped");
  const [a, b] = await pair.stream();
  assertEquals(a.id, b.id);
});

Deno.test("control goes first and the other streams take turns", async () => {
  await using pair = new SessionPair();
  const streams = ["ram", "params", "ram"] as const;
  const opened = streams.map((kind) => pair.a.openStream(kind));
  const control = pair.a.openStream("control");
  await settle();
  const before = pair.links[0].written.length;
  pair.links[0].holdWrites();
  const writes = opened.map((stream) => stream.write(new Uint8Array(3 * 65536)));
  await settle();
  writes.push(...opened.map((stream) => stream.write(new Uint8Array(2))));
  writes.push(control.write(text("urgent")));
  await settle();
  pair.links[0].releaseWrites();
  await Promise.all(writes);
  const order: number[] = [];
  const written = pair.links[0].written;
  for (let at = before; at < written.length;) {
    const view = new DataView(written.buffer, at);
    if (view.getUint8(0) === 2) order.push(view.getUint32(4));
    at += 12 + view.getUint32(8);
  }
  // The first frame was under way already when the control message came.
  assertEquals(order, [1, 7, 3, 5, 1, 3, 5]);
});
