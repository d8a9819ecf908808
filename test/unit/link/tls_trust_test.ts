// Whom a sender trusts beside the ticket's key, and whom not, whatever the system says.

import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import { dialSecure } from "../../../src/link/secure.ts";
import { operatorIdentity, ownIdentity, trustAuthority, trustKey } from "../../../src/link/tls.ts";
import { checkIdentity } from "../../../src/link/tls_server.ts";
import { run } from "../../lib/command.ts";
import { requires } from "../../lib/requires.ts";
import { TempDir } from "../../lib/temp.ts";
import { never } from "./fixture.ts";
import { DIAL, dialCode, makeSession, TlsReceiver } from "./tls_fixture.ts";

Deno.test({
  name: "the operator's own certificate, and only what the operator's authority has signed",
  ...requires("openssl"),
  async fn() {
    await using temp = await TempDir.create();
    const { authority, cert, key } = await makeAuthority(temp, "localhost");
    using receiver = new TlsReceiver(operatorIdentity(cert, key));
    const { port } = receiver.listener.address;
    const target = (host: string, caPem: string) => ({
      ...receiver.target(trustAuthority(caPem, host)),
      address: { host, port },
    });
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
    using middle = new TlsReceiver(operatorIdentity(cert, key));
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

Deno.test("keys are not written to a file because a variable says so, on either side", async () => {
  const made = await makeSession();
  const identity = ownIdentity(made);
  using receiver = new TlsReceiver(identity);
  Deno.env.set("SSLKEYLOGFILE", "/nowhere/keys");
  try {
    const target = receiver.target(trustKey(made.publicKey));
    const errors = [
      await assertRejects(() => dialSecure(target, DIAL), AgentError),
      assertThrows(() => checkIdentity(identity), AgentError),
    ];
    for (const { code, kind } of errors) assertEquals([code, kind], ["tls_key_log", "usage"]);
  } finally {
    Deno.env.delete("SSLKEYLOGFILE");
  }
  assertEquals(await receiver.code(0), "link_ended");
});

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
