import { assertEquals, assertRejects } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import { relay } from "../../../src/wire/relay.ts";
import { Session } from "../../../src/wire/session.ts";
import { chooseSeed, MemoryLink, randomBytes, seededRandom, settle } from "./memory_link.ts";
import { never, readAll, SessionPair } from "./session_fixture.ts";

async function hash(bytes: Uint8Array): Promise<string> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes.slice())).toHex();
}

async function writePieces(
  to: { write(p: Uint8Array): Promise<number>; closeWrite(): Promise<void> },
  bytes: Uint8Array,
  random: () => number,
): Promise<void> {
  for (let at = 0; at < bytes.length;) {
    at += await to.write(bytes.subarray(at, at + 1 + Math.floor(random() * 200_000)));
  }
  await to.closeWrite();
}

Deno.test("random data both ways, through two relays and two sessions", async () => {
  const random = seededRandom(chooseSeed());
  await using pair = new SessionPair();
  for (const link of pair.links) link.readLimit = () => Math.floor(random() * 70_000);
  const [a, b] = await pair.stream();
  const [left, relayLeft] = MemoryLink.pair();
  const [right, relayRight] = MemoryLink.pair();
  const up = randomBytes(5_000_000, random);
  const down = randomBytes(1_234_567, random);
  let counted = 0;
  const [gotUp, gotDown, totalsLeft, totalsRight] = await Promise.all([
    readAll(right),
    readAll(left),
    relay(relayLeft, a, {
      signal: never,
      onBytes: (way, count) => counted += way === "a_to_b" ? count : 0,
    }),
    relay(b, relayRight, { signal: never }),
    writePieces(left, up, random),
    writePieces(right, down, random),
  ]);
  assertEquals(await hash(gotUp), await hash(up));
  assertEquals(await hash(gotDown), await hash(down));
  const totals = { aToBBytes: up.length, bToABytes: down.length };
  assertEquals([totalsLeft, totalsRight], [totals, totals]);
  assertEquals(counted, up.length);
});

Deno.test("over real sockets: unix to unix through TCP", async () => {
  const random = seededRandom(chooseSeed());
  const dir = await Deno.makeTempDir();
  try {
    using tcp = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const [dialled, accepted] = await Promise.all([
      Deno.connect({ hostname: "127.0.0.1", port: tcp.addr.port }),
      tcp.accept(),
    ]);
    const a = new Session(dialled, { role: "initiator" });
    const b = new Session(accepted, { role: "responder" });
    const unixPair = async (name: string) => {
      using listener = Deno.listen({ transport: "unix", path: `${dir}/${name}` });
      return await Promise.all([
        Deno.connect({ transport: "unix", path: `${dir}/${name}` }),
        listener.accept(),
      ]);
    };
    const [left, relayLeft] = await unixPair("left");
    const [right, relayRight] = await unixPair("right");
    const up = randomBytes(3_000_000, random);
    const down = randomBytes(300_000, random);
    const [gotUp, gotDown] = await Promise.all([
      readAll(right),
      readAll(left),
      relay(relayLeft, a.openStream("ram"), { signal: never }),
      b.acceptStream("ram", never).then((stream) => relay(stream, relayRight, { signal: never })),
      writePieces(left, up, random),
      writePieces(right, down, random),
    ]);
    assertEquals(await hash(gotUp), await hash(up));
    assertEquals(await hash(gotDown), await hash(down));
    await Promise.all([a.goAway("done", "the test is over"), b.done]);
    assertEquals(b.peerGoAway, { code: "done", reason: "the test is over" });
    for (const conn of [left, relayLeft, right, relayRight]) conn.close();
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

Deno.test("each direction's end is passed on by itself", async () => {
  const [left, relayLeft] = MemoryLink.pair();
  const [right, relayRight] = MemoryLink.pair();
  const running = relay(relayLeft, relayRight, { signal: never });
  await left.closeWrite();
  assertEquals(await right.read(new Uint8Array(1)), null);
  await right.write(new Uint8Array([1, 2, 3]));
  assertEquals(await left.read(new Uint8Array(9)), 3);
  await right.closeWrite();
  assertEquals(await left.read(new Uint8Array(1)), null);
  assertEquals(await running, { aToBBytes: 0, bToABytes: 3 });
});

Deno.test("a failure on one side is thrown, and the other direction stops", async () => {
  const [left, relayLeft] = MemoryLink.pair();
  const [right, relayRight] = MemoryLink.pair();
  const running = relay(relayLeft, relayRight, { signal: never });
  relayRight.writeClosed = true; // its next write fails
  await left.write(new Uint8Array(10));
  await assertRejects(() => running, Deno.errors.BrokenPipe);
  await right.write(new Uint8Array(10));
  await settle();
  assertEquals(relayLeft.written.length, 0);
  relayLeft.close(); // the read that was under way fails: nobody waits for it
  await settle();
});

Deno.test("after a failure nothing more is taken from a stream", async () => {
  await using pair = new SessionPair();
  const [a, b] = await pair.stream();
  const [left, relayLeft] = MemoryLink.pair();
  const cancel = new AbortController();
  const running = relay(relayLeft, a, { signal: cancel.signal });
  await settle();
  cancel.abort(new Error("stop"));
  await assertRejects(() => running, Error, "stop");
  await b.write(new Uint8Array(10));
  await settle();
  assertEquals(relayLeft.written.length, 0);
  left.close();
});

Deno.test("an abort ends the relay with the reason, whatever it waits for", async () => {
  await using pair = new SessionPair();
  const [a] = await pair.stream();
  const [, relayLeft] = MemoryLink.pair();
  const cancel = new AbortController();
  const running = relay(relayLeft, a, { signal: cancel.signal });
  await settle();
  cancel.abort(new AgentError("interrupted", "stopped by the operator", { kind: "cancelled" }));
  await assertRejects(() => running, AgentError, "stopped by the operator");
  relayLeft.close();
  a.reset("cancelled", "stopped by the operator");
  await settle(); // whatever was left behind ends without an unhandled rejection
});

Deno.test("a stream that is reset ends the relay with the peer's words", async () => {
  await using pair = new SessionPair();
  const [a, b] = await pair.stream();
  const [, relayLeft] = MemoryLink.pair();
  const running = relay(relayLeft, a, { signal: never });
  b.reset("qemu_ended", "QEMU is gone");
  await assertRejects(() => running, AgentError, "(qemu_ended): peer says 'QEMU is gone'");
});
