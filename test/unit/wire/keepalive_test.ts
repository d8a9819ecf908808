import { assert, assertEquals } from "@std/assert";
import type { AgentError } from "../../../src/base/errors.ts";
import { settle } from "./memory_link.ts";
import { never, RawPeer, SessionPair } from "./session_fixture.ts";

const TIMES = { keepaliveIntervalMs: 1000, peerTimeoutMs: 5000 };

function codeOf(session: { signal: AbortSignal }): string {
  return session.signal.aborted ? (session.signal.reason as AgentError).code : "alive";
}

Deno.test("a silent peer is pinged, then given up", async () => {
  await using peer = new RawPeer(TIMES);
  await peer.preface();
  await peer.timers.advance(4500);
  assertEquals(codeOf(peer.session), "alive");
  assertEquals(peer.seen.map((frame) => frame.type), ["ping", "ping", "ping", "ping"]);
  await peer.timers.advance(500);
  assertEquals(codeOf(peer.session), "peer_silent");
  assert(peer.sessionLink.closed);
  assertEquals(peer.timers.count, 0);
});

Deno.test("a peer that never says a word is given up", async () => {
  await using peer = new RawPeer(TIMES);
  await peer.timers.advance(5000);
  assertEquals(codeOf(peer.session), "peer_silent");
});

Deno.test("a blocked write does not hide a silent peer", async () => {
  await using peer = new RawPeer(TIMES);
  await peer.preface();
  await settle();
  peer.sessionLink.holdWrites();
  const stream = peer.session.openStream("ram");
  const writing = stream.write(new Uint8Array(1000)).then(() => "written", (error) => error.code);
  const reading = stream.read(new Uint8Array(1)).then(() => "read", (error) => error.code);
  const accepting = peer.session.acceptStream("ram", never).then(() => "", (error) => error.code);
  await peer.timers.advance(5000);
  assertEquals(codeOf(peer.session), "peer_silent");
  // Everybody is told although the write itself never returns.
  assertEquals(await Promise.all([writing, reading, accepting]), Array(3).fill("peer_silent"));
  await peer.session.done;
});

Deno.test("one ping waits at most while writes are blocked", async () => {
  await using peer = new RawPeer({ ...TIMES, peerTimeoutMs: 60_000 });
  await peer.preface();
  await settle();
  peer.sessionLink.holdWrites();
  await peer.timers.advance(30_000);
  peer.sessionLink.releaseWrites();
  await settle();
  assert(peer.seen.length <= 2, `${peer.seen.length} pings`);
});

Deno.test("two idle sessions keep each other alive", async () => {
  await using pair = new SessionPair(TIMES);
  await pair.timers.advance(3_600_000);
  assertEquals([codeOf(pair.a), codeOf(pair.b)], ["alive", "alive"]);
});

Deno.test("a side that only receives lets itself be heard", async () => {
  await using peer = new RawPeer(TIMES);
  await peer.preface();
  for (let i = 0; i < 10; i++) {
    await peer.send({ type: "pong", opaque: new Uint8Array(8) });
    await peer.timers.advance(500);
  }
  const pings = peer.seen.filter((frame) => frame.type === "ping").length;
  assert(pings >= 4, `${pings} pings in 5 seconds`);
});

Deno.test("a ping is answered with its own bytes", async () => {
  await using peer = new RawPeer(TIMES);
  await peer.preface();
  const opaque = crypto.getRandomValues(new Uint8Array(8));
  await peer.send({ type: "ping", opaque });
  await settle();
  assertEquals(peer.seen, [{ type: "pong", opaque }]);
});
