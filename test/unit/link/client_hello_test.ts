// A client's first message: what is let through to TLS, and what becomes of everything else.

import { assert, assertEquals, assertRejects } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import { LIMITS } from "../../../src/link/attempts.ts";
import { HelloRefused, readClientHello } from "../../../src/link/client_hello.ts";
import { dial } from "../../../src/link/dial.ts";
import { writeExactly } from "../../../src/link/link.ts";
import { listen } from "../../../src/link/listen.ts";
import { ownIdentity, startTls, trustKey } from "../../../src/link/tls.ts";
import { FakeTimers } from "../wire/fake_timers.ts";
import { chooseSeed, MemoryLink, seededRandom } from "../wire/memory_link.ts";
import { never } from "./fixture.ts";
import { DIAL, LOOPBACK, makeSession, TlsReceiver } from "./tls_fixture.ts";

Deno.test("a client that stops anywhere in the handshake is let go, and its socket closed", async () => {
  const made = await makeSession();
  const hello = await recordHello(made.publicKey);
  for (const bytes of [0, 1, 5, 40, hello.length - 1, hello.length]) {
    const clock = new FakeTimers();
    using receiver = new TlsReceiver(ownIdentity(made), { clock });
    using conn = await dial(receiver.listener.address, DIAL);
    await receiver.accepted(0);
    if (bytes > 0) await writeExactly(conn, hello.subarray(0, bytes), never);
    // All of it: the receiver's part of the handshake comes, and nothing follows.
    if (bytes === hello.length) await conn.read(new Uint8Array(1));
    await clock.advance(LIMITS.handshakeMs);
    assertEquals(await receiver.code(0), "handshake_timeout", `after ${bytes} bytes`);
    const room = new Uint8Array(65536);
    while (await conn.read(room) !== null); // ends: the receiver has closed it
  }
});

Deno.test("a first message that is no client hello, or not one of TLS 1.3, gets an alert", async () => {
  const made = await makeSession();
  const hello = await recordHello(made.publicKey);
  const versions = indexOf(hello, Uint8Array.of(0, 43));
  const cases: [Uint8Array, string][] = [
    [hello.with(5, 2), "tls_malformed"], // another message
    [hello.with(8, hello[8]! + 1), "tls_malformed"], // longer than its record
    [hello.with(43, 255), "tls_malformed"], // session id
    [hello.with(3, 0x40).with(4, 1), "tls_malformed"], // a record that is too long
    [hello.with(3, 0).with(4, 0), "tls_malformed"],
    [hello.with(versions + 1, 0xfe), "tls_version"], // no list of versions
    [hello.with(versions + 6, 2), "tls_version"], // 1.1 in place of 1.3
    [hello.with(versions + 3, 255), "tls_malformed"],
    [new TextEncoder().encode("GET / HTTP/1.0"), "peer_without_tls"],
    [new TextEncoder().encode("MIGAUTH"), "peer_without_tls"],
  ];
  const random = seededRandom(chooseSeed());
  for (let i = 0; i < 50; i++) {
    const bytes = hello.slice();
    bytes[5 + Math.floor(random() * (bytes.length - 5))] = Math.floor(random() * 256);
    cases.push([bytes, ""]);
  }
  for (const [bytes, code] of cases) {
    const [peer, here] = MemoryLink.pair();
    await peer.write(bytes);
    await peer.closeWrite();
    const outcome = await readClientHello(here, never).catch((error) => error);
    if (outcome instanceof AgentError) {
      assert(outcome instanceof HelloRefused, outcome.code);
      if (code !== "") assertEquals(outcome.code, code);
      assertEquals([outcome.kind, outcome.alert[0]], ["refused", 0x15]);
    } else {
      assertEquals([outcome.toHex(), code], [bytes.toHex(), ""]);
    }
  }
});

/** The first message of this program's own TLS client. */
async function recordHello(publicKey: Uint8Array): Promise<Uint8Array> {
  using listener = listen(LOOPBACK);
  const conn = await dial(listener.address, DIAL);
  using here = await listener.accept(never);
  const cancel = new AbortController();
  const starting = startTls(conn, { trust: trustKey(publicKey), signal: cancel.signal });
  const hello = await readClientHello(here, never);
  cancel.abort(new AgentError("recorded", "enough"));
  await assertRejects(() => starting, AgentError, "enough");
  return hello;
}

function indexOf(bytes: Uint8Array, part: Uint8Array): number {
  return bytes.findIndex((_, at) => part.every((byte, i) => bytes[at + i] === byte));
}
