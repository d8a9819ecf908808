// TLS over real connections on loopback: what sender and receiver have of it, and what others get.

import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import { makeDerivedCertificate } from "../../../src/link/certificate.ts";
import { dial } from "../../../src/link/dial.ts";
import { readExactly, writeExactly } from "../../../src/link/link.ts";
import { listen } from "../../../src/link/listen.ts";
import { dialSecure, targetOfSecret, targetOfTicket } from "../../../src/link/secure.ts";
import { ownIdentity, TlsLink, trustKey } from "../../../src/link/tls.ts";
import { encodePreface } from "../../../src/wire/frame.ts";
import { capture } from "../../lib/command.ts";
import { requires } from "../../lib/requires.ts";
import { chooseSeed, randomBytes, seededRandom } from "../wire/memory_link.ts";
import { never, SECRET } from "./fixture.ts";
import { DIAL, dialCode, LOOPBACK, makeSession, TlsReceiver } from "./tls_fixture.ts";

Deno.test("sender and receiver with the ticket's key: data both ways, ends one by one", async () => {
  const made = await makeSession();
  using receiver = new TlsReceiver(ownIdentity(made));
  const target = targetOfTicket({
    address: receiver.listener.address,
    server: { kind: "key", publicKey: made.publicKey },
    secret: SECRET,
    expiresAtMs: 0,
    migrationId: "m-1",
  }, null);
  const { link: there, resumeSecret } = await dialSecure(target, DIAL);
  const accepted = await receiver.outcome(0);
  assert(!(accepted instanceof AgentError));
  assertEquals(accepted.resumeSecret, resumeSecret);
  assertEquals([accepted.source, accepted.secret.migrationId], ["127.0.0.1", "m-1"]);
  const here = accepted.link;

  const random = seededRandom(chooseSeed());
  const sent = randomBytes(300_000, random);
  const received = new Uint8Array(sent.length);
  const write = async () => {
    for (let at = 0; at < sent.length;) {
      const end = Math.min(sent.length, at + 1 + Math.floor(random() * 40_000));
      await writeExactly(there, sent.subarray(at, end), never);
      at = end;
    }
    await there.closeWrite();
  };
  await Promise.all([write(), readExactly(here, received, never)]);
  assertEquals(received.toHex() === sent.toHex(), true);
  assertEquals(await here.read(new Uint8Array(1)), null);
  await writeExactly(here, Uint8Array.of(1, 2), never);
  await here.closeWrite();
  await readExactly(there, received.subarray(0, 2), never);
  assertEquals(await there.read(received), null);
  here.close();
  there.close();
});

Deno.test("both ends know the key from a secret file", async () => {
  using receiver = new TlsReceiver(ownIdentity(await makeDerivedCertificate(SECRET)), {
    migrationId: "",
  });
  const { address } = receiver.listener;
  const target = (secret: Uint8Array) => targetOfSecret(address, { secret, authorityPem: null });
  const { link } = await dialSecure(target(SECRET), DIAL);
  assertEquals(await receiver.code(0), "accepted");
  const codes = [await dialCode(target(SECRET.with(0, 0))), await receiver.code(1)];
  assertEquals(codes, ["certificate_refused", "tls_refused"]);
  link.close();
  (await receiver.link(0)).close();
});

Deno.test("the wrong certificate, or a man in the middle with his own: no proof is given", async () => {
  const [right, wrong] = [await makeSession(), await makeSession()];
  using middle = new TlsReceiver(ownIdentity(wrong));
  const code = await dialCode(middle.target(trustKey(right.publicKey)));
  assertEquals([code, await middle.code(0)], ["certificate_refused", "tls_refused"]);
});

Deno.test("a proof for another certificate, handed on over TLS", async () => {
  const [made, other] = [await makeSession(), await makeSession()];
  using receiver = new TlsReceiver(ownIdentity(made));
  const { binding } = trustKey(other.publicKey);
  const target = receiver.target({ ...trustKey(made.publicKey), binding });
  assertEquals([await dialCode(target), await receiver.code(0)], ["proof_refused", "proof_wrong"]);
});

Deno.test("a sender without TLS is told from a lost connection, and gets an alert", async () => {
  using receiver = new TlsReceiver(ownIdentity(await makeSession()));
  using conn = await dial(receiver.listener.address, DIAL);
  await writeExactly(conn, encodePreface(), never);
  assertEquals(await receiver.code(0), "peer_without_tls");
  const alert = new Uint8Array(7);
  await readExactly(conn, alert, never);
  assertEquals(alert.toHex(), "1503030002020a");
});

Deno.test("a receiver without TLS is told from a lost connection", async () => {
  const { publicKey } = await makeSession();
  using listener = listen(LOOPBACK);
  const target = { secret: SECRET, migrationId: "m-1", trust: trustKey(publicKey) };
  const dialling = dialCode({ ...target, address: listener.address });
  using here = await listener.accept(never);
  await writeExactly(here, encodePreface(), never);
  assertEquals(await dialling, "peer_without_tls");
});

Deno.test({
  name: "openssl: TLS 1.2 and older are refused, and every protocol but ours",
  ...requires("openssl"),
  async fn() {
    const made = await makeSession();
    using receiver = new TlsReceiver(ownIdentity(made));
    const connect = ["-connect", `127.0.0.1:${receiver.listener.address.port}`];
    const client = async (...options: string[]) =>
      (await capture(["openssl", "s_client", ...connect, ...options], never)).stdout;
    assertStringIncludes(await client("-alpn", "http/1.1"), "no peer certificate available");
    assertEquals(await receiver.code(0), "tls_refused");
    await client(); // no protocol at all
    assertEquals(await receiver.code(1), "peer_not_agent");
    assertStringIncludes(await client("-tls1_1", "-alpn", "migrate-agent/1"), "Cipher is (NONE)");
    assertEquals(await receiver.code(2), "tls_version");
    assertStringIncludes(await client("-tls1_2", "-alpn", "migrate-agent/1"), "Cipher is (NONE)");
    assertEquals(await receiver.code(3), "tls_version");
    assertStringIncludes(await client("-tls1_3", "-alpn", "migrate-agent/1"), "TLSv1.3");
  },
});

Deno.test("a connection that is cut is told from one that ends, as a lost link", async () => {
  const made = await makeSession();
  using receiver = new TlsReceiver(ownIdentity(made));
  using relay = new CuttableRelay(receiver.listener.address.port);
  const address = { host: "127.0.0.1", port: relay.port };
  const { link } = await dialSecure(
    { ...receiver.target(trustKey(made.publicKey)), address },
    DIAL,
  );
  const here = await receiver.link(0);
  assert(link instanceof TlsLink && here instanceof TlsLink);
  const reading = [link, here].map((side) =>
    assertRejects(() => side.read(new Uint8Array(10)), AgentError)
  );
  relay.cut();
  for (const error of await Promise.all(reading)) {
    assertEquals([error.code, error.kind], ["link_ended", "link"]);
  }
  link.close();
  link.close();
  here.close();
});

/** A TCP relay that can die in the middle, as a host does. */
class CuttableRelay implements Disposable {
  readonly #listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  readonly #conns: Deno.TcpConn[] = [];

  constructor(toPort: number) {
    const start = async () => {
      const one = await this.#listener.accept();
      const two = await Deno.connect({ hostname: "127.0.0.1", port: toPort });
      this.#conns.push(one, two);
      await Promise.allSettled([copy(one, two), copy(two, one)]); // until it is cut
    };
    start().catch((error) => assert(error instanceof Deno.errors.BadResource, `${error}`));
  }

  get port(): number {
    return this.#listener.addr.port;
  }

  cut(): void {
    for (const conn of this.#conns.splice(0)) conn.close();
  }

  [Symbol.dispose](): void {
    this.cut();
    this.#listener.close();
  }
}

async function copy(from: Deno.TcpConn, to: Deno.TcpConn): Promise<void> {
  const room = new Uint8Array(65536);
  for (let count = await from.read(room); count !== null; count = await from.read(room)) {
    await writeExactly(to, room.subarray(0, count), never);
  }
}
