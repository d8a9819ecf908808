// TLS over real connections on loopback: who trusts whom, and what everybody else gets.

import {
  assert,
  assertEquals,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import { AttemptLimits, type Clock, LIMITS, SYSTEM_CLOCK } from "../../../src/link/attempts.ts";
import { makeDerivedCertificate, makeSessionCertificate } from "../../../src/link/certificate.ts";
import { HelloRefused, readClientHello } from "../../../src/link/client_hello.ts";
import { dial } from "../../../src/link/dial.ts";
import { type Link, readExactly, writeExactly } from "../../../src/link/link.ts";
import { listen } from "../../../src/link/listen.ts";
import {
  type AcceptedLink,
  acceptSecure,
  dialSecure,
  type DialTarget,
  targetOfSecret,
  targetOfTicket,
} from "../../../src/link/secure.ts";
import { SecretBook } from "../../../src/link/secrets.ts";
import {
  operatorIdentity,
  ownIdentity,
  PLAIN_BINDING,
  startTls,
  type TlsIdentity,
  TlsLink,
  trustAuthority,
  trustKey,
} from "../../../src/link/tls.ts";
import { checkIdentity } from "../../../src/link/tls_server.ts";
import { capture, run } from "../../lib/command.ts";
import { requires } from "../../lib/requires.ts";
import { TempDir } from "../../lib/temp.ts";
import { chooseSeed, MemoryLink, randomBytes, seededRandom } from "../wire/memory_link.ts";
import { FakeClock, never, SECRET } from "./fixture.ts";

const LOOPBACK = { host: "127.0.0.1", port: 0 };
const DIAL = { signal: never, timeoutMs: 5000 };

async function makeSession() {
  return await makeSessionCertificate({ nowMs: Date.now(), untilMs: Date.now() + 3600_000 });
}

/** Accepts connections until it is closed; what became of each is in `outcomes`, in order. */
class Receiver implements Disposable {
  readonly outcomes: Promise<AcceptedLink | AgentError>[] = [];
  readonly listener = listen(LOOPBACK);
  readonly #stop = new AbortController();
  #waiters: (() => void)[] = [];

  /** Without an identity: without TLS. */
  constructor(
    identity: TlsIdentity | null,
    { migrationId = "m-1", clock = SYSTEM_CLOCK }: { migrationId?: string; clock?: Clock } = {},
  ) {
    const secrets = new SecretBook();
    secrets.add({ secret: SECRET, migrationId, expiresAtMs: Infinity, once: false });
    const limits = new AttemptLimits({ ...LIMITS, delayMs: 0 }, clock);
    const accept = async () => {
      while (!this.#stop.signal.aborted) {
        const conn = await this.listener.accept(this.#stop.signal);
        const options = { identity, secrets, limits, signal: never };
        const outcome = acceptSecure(conn, options).catch((error) => {
          assert(error instanceof AgentError, `${error}`);
          return error;
        });
        this.outcomes.push(outcome);
        this.#waiters.splice(0).forEach((wake) => wake());
      }
    };
    accept().catch((error) => assert(this.#stop.signal.aborted, `${error}`));
  }

  /** Waits for the connection with that number, counted from 0. */
  async accepted(at: number): Promise<void> {
    while (this.outcomes.length <= at) await new Promise<void>((wake) => this.#waiters.push(wake));
  }

  /** What became of that connection. */
  async outcome(at: number): Promise<AcceptedLink | AgentError> {
    await this.accepted(at);
    return await this.outcomes[at]!;
  }

  async code(at: number): Promise<string> {
    const result = await this.outcome(at);
    return result instanceof AgentError ? result.code : "accepted";
  }

  async link(at: number): Promise<Link> {
    const result = await this.outcome(at);
    if (result instanceof AgentError) throw result;
    return result.link;
  }

  target(changes: Partial<DialTarget>): DialTarget {
    const { address } = this.listener;
    return { address, secret: SECRET, migrationId: "m-1", trust: null, ...changes };
  }

  [Symbol.dispose](): void {
    this.#stop.abort(new Error("the test is over"));
    this.listener.close();
  }
}

async function dialCode(target: DialTarget): Promise<string> {
  const error = await assertRejects(() => dialSecure(target, DIAL), AgentError);
  return error.code;
}

Deno.test("sender and receiver with the ticket's key: data both ways, ends one by one", async () => {
  const made = await makeSession();
  using receiver = new Receiver(ownIdentity(made));
  const target = targetOfTicket({
    address: receiver.listener.address,
    server: { kind: "key", publicKey: made.publicKey },
    secret: SECRET,
    expiresAtMs: 0,
    migrationId: "m-1",
  }, { authorityPem: null, allowPlain: false });
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
  using receiver = new Receiver(ownIdentity(await makeDerivedCertificate(SECRET)), {
    migrationId: "",
  });
  const { address } = receiver.listener;
  const options = { authorityPem: null, allowPlain: false };
  const { link } = await dialSecure(targetOfSecret(address, { secret: SECRET, ...options }), DIAL);
  assertEquals(await receiver.code(0), "accepted");
  const other = SECRET.with(0, 0);
  const wrong = targetOfSecret(address, { secret: other, ...options });
  assertEquals([await dialCode(wrong), await receiver.code(1)], [
    "certificate_refused",
    "tls_refused",
  ]);
  link.close();
  (await receiver.link(0)).close();
});

Deno.test("the wrong certificate, or a man in the middle with his own: no proof is given", async () => {
  const [right, wrong] = [await makeSession(), await makeSession()];
  using middle = new Receiver(ownIdentity(wrong));
  const code = await dialCode(middle.target({ trust: trustKey(right.publicKey) }));
  assertEquals([code, await middle.code(0)], ["certificate_refused", "tls_refused"]);
});

Deno.test("a man in the middle who speaks TLS to the receiver and none to the sender", async () => {
  const made = await makeSession();
  using receiver = new Receiver(ownIdentity(made));
  // What the sender with --insecure proves, handed on over TLS: bound to no certificate.
  const target = receiver.target({
    trust: { ...trustKey(made.publicKey), binding: PLAIN_BINDING },
  });
  assertEquals([await dialCode(target), await receiver.code(0)], ["proof_refused", "proof_wrong"]);
});

Deno.test("TLS on one side only is told from a lost connection, on both sides", async () => {
  const made = await makeSession();
  using withTls = new Receiver(ownIdentity(made));
  using without = new Receiver(null);
  assertEquals([await dialCode(withTls.target({ trust: null })), await withTls.code(0)], [
    "peer_speaks_tls",
    "peer_without_tls",
  ]);
  const trust = trustKey(made.publicKey);
  const dialling = dialCode(without.target({ trust }));
  assertEquals(await without.code(0), "peer_speaks_tls");
  assertEquals(await dialling, "peer_without_tls");
  const { link } = await dialSecure(without.target({ trust: null }), DIAL);
  link.close();
  (await without.link(1)).close();
});

Deno.test("a client that stops anywhere in the handshake is let go, and its socket closed", async () => {
  const made = await makeSession();
  const hello = await recordHello(made.publicKey);
  for (const bytes of [0, 1, 5, 40, hello.length - 1, hello.length]) {
    const clock = new FakeClock();
    using receiver = new Receiver(ownIdentity(made), { clock });
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

Deno.test({
  name: "openssl: TLS 1.2 and older are refused, and every protocol but ours",
  ...requires("openssl"),
  async fn() {
    const made = await makeSession();
    using receiver = new Receiver(ownIdentity(made));
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

Deno.test({
  name: "the operator's own certificate, and only what the operator's authority has signed",
  ...requires("openssl"),
  async fn() {
    await using temp = await TempDir.create();
    const { authority, cert, key } = await makeAuthority(temp, "localhost");
    using receiver = new Receiver(operatorIdentity(cert, key));
    const { port } = receiver.listener.address;
    const target = (host: string, caPem: string) =>
      receiver.target({ address: { host, port }, trust: trustAuthority(caPem, host) });
    const { link } = await dialSecure(target("localhost", authority), DIAL);
    link.close();
    (await receiver.link(0)).close();
    assertEquals(await dialCode(target("127.0.0.1", authority)), "certificate_refused");
    const { certPem } = await makeSession();
    assertEquals(await dialCode(target("localhost", certPem)), "certificate_refused");
    const error = assertThrows(
      () => checkIdentity(operatorIdentity(cert, "no key")),
      AgentError,
    );
    assertEquals([error.code, error.kind], ["bad_tls_certificate", "usage"]);
  },
});

Deno.test({
  name: "an authority that the whole system trusts cannot stand in between",
  ...requires("openssl"),
  async fn() {
    await using temp = await TempDir.create();
    const { cert, key } = await makeAuthority(temp, "migrate.internal");
    using middle = new Receiver(operatorIdentity(cert, key));
    const { port } = middle.listener.address;
    const { publicKey } = await makeSession();
    // A process of its own: the runtime makes its store of authorities once, at the first use.
    const tls = import.meta.resolve("../../../src/link/tls.ts");
    const script = (trusting: string) => `
      import { startTls, trustKey } from ${JSON.stringify(tls)};
      const conn = await Deno.connect({ hostname: "127.0.0.1", port: ${port} });
      try {
        ${trusting}
        console.log("trusted");
      } catch (error) {
        console.log(error.code ?? error.message);
      }
      Deno.exit(0);`;
    const ours = `await startTls(conn, {
      trust: trustKey(Uint8Array.fromHex("${publicKey.toHex()}")),
      signal: new AbortController().signal,
    });`;
    const plain =
      `const options = { hostname: "migrate.internal", alpnProtocols: ["migrate-agent/1"] };
      await (await Deno.startTls(conn, options)).handshake();`;
    assertEquals(await inTrustingProcess(script(plain), temp), "trusted", "the test shows nothing");
    assertEquals(await inTrustingProcess(script(ours), temp), "certificate_refused");
  },
});

Deno.test("keys are not written to a file because a variable says so", async () => {
  using receiver = new Receiver(ownIdentity(await makeSession()));
  Deno.env.set("SSLKEYLOGFILE", "/nowhere/keys");
  try {
    const { publicKey } = await makeSession();
    const error = await assertRejects(
      () => dialSecure(receiver.target({ trust: trustKey(publicKey) }), DIAL),
      AgentError,
    );
    assertEquals([error.code, error.kind], ["tls_key_log", "usage"]);
  } finally {
    Deno.env.delete("SSLKEYLOGFILE");
  }
  assertEquals(await receiver.code(0), "link_ended");
});

Deno.test("a connection that is cut is told from one that ends, as a lost link", async () => {
  const made = await makeSession();
  using receiver = new Receiver(ownIdentity(made));
  using relay = new CuttableRelay(receiver.listener.address.port);
  const address = { host: "127.0.0.1", port: relay.port };
  const { link } = await dialSecure(
    receiver.target({ address, trust: trustKey(made.publicKey) }),
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

/** An authority, and a certificate of it for `name`, all made by openssl. */
async function makeAuthority(temp: TempDir, name: string) {
  const f = (file: string) => temp.file(file);
  const newKey = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
  await run([
    ...["openssl", "req", "-x509", ...newKey, "-keyout", f("ca.key"), "-out", f("ca.pem")],
    ...["-days", "2", "-subj", "/CN=authority"],
  ], never);
  await run([
    ...["openssl", "req", ...newKey, "-keyout", f("key.pem"), "-out", f("request")],
    ...["-subj", "/CN=server"],
  ], never);
  await Deno.writeTextFile(f("extensions"), `subjectAltName=DNS:${name}\n`);
  await run([
    ...["openssl", "x509", "-req", "-in", f("request"), "-CA", f("ca.pem"), "-CAkey", f("ca.key")],
    ...["-CAcreateserial", "-out", f("cert.pem"), "-days", "2", "-extfile", f("extensions")],
  ], never);
  const [authority, cert, key] = await Promise.all(
    ["ca.pem", "cert.pem", "key.pem"].map((file) => Deno.readTextFile(f(file))),
  );
  return { authority: authority!, cert: cert!, key: key! };
}

/** Runs `script` where the system's authorities are those of `ca.pem` in `temp`. */
async function inTrustingProcess(script: string, temp: TempDir): Promise<string> {
  await Deno.writeTextFile(temp.file("script.ts"), script);
  const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--allow-all", "--no-check", "--quiet", temp.file("script.ts")],
    env: { DENO_TLS_CA_STORE: "system", SSL_CERT_FILE: temp.file("ca.pem") },
  }).output();
  const text = new TextDecoder();
  return text.decode(stdout).trim() || text.decode(stderr);
}

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
