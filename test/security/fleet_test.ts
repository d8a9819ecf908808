// Receivers of a fleet: a secret that both hosts have instead of tickets, and certificates of an
// operator's own authority.

import { assertEquals } from "@std/assert";
import { run } from "../lib/command.ts";
import { assertGoesOn, attach, makeBootDisk, startGuest } from "../lib/moving.ts";
import { requires } from "../lib/requires.ts";
import { TestSite } from "../lib/site.ts";
import { TempDir } from "../lib/temp.ts";
import { writeSecret } from "./lab.ts";

const REFUSED = 3;
const limit = () => AbortSignal.timeout(90_000);

/** Moves a guest of that name by a sender with these options; it must go on. */
async function moveGuest(
  site: TestSite,
  { name, temp, send, signal }: {
    name: string;
    temp: TempDir;
    send: readonly string[];
    signal: AbortSignal;
  },
): Promise<void> {
  const disk = temp.file(`${name}.raw`);
  await makeBootDisk(disk, { signal });
  await using source = await startGuest(["-name", name, ...attach(disk)], { signal });
  const { count } = await source.readGuest(signal);
  const sender = site.start(["send", "-q", "--qmp", source.qmpPath, ...send], signal);
  const { account } = await sender.expectEnd(0);
  await using guest = await site.openGuest(account!, signal);
  await assertGoesOn(guest.qmp, { since: count, signal });
}

Deno.test({
  name: "security: with a shared secret one receiver serves one guest after another",
  ...requires("qemu-system-x86_64", "qemu-img"),
  async fn() {
    const signal = limit();
    await using temp = await TempDir.create();
    await using site = await TestSite.create();
    await writeSecret(temp.file("secret"));
    const secret = ["--secret-file", temp.file("secret")];
    const { agent, address } = await site.receive(["--serve", ...secret], signal);
    for (const name of ["first", "second"]) {
      await moveGuest(site, { name, temp, send: ["--to", address, ...secret], signal });
    }
    agent.kill("SIGTERM");
    const { lines } = await agent.expectEnd(0);
    const outcomes = lines.flatMap((line) => line.type === "account" ? line.outcome : []);
    assertEquals(outcomes, ["completed", "completed"]);
    await site.assertNoTemporaryFiles();
  },
});

/** An authority, and a certificate of it for 127.0.0.1, in `<name>_*.pem`. */
async function makeAuthority(temp: TempDir, name: string, signal: AbortSignal): Promise<void> {
  const file = (what: string) => temp.file(`${name}_${what}.pem`);
  const newKey = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
  await run([
    ...["openssl", "req", "-x509", ...newKey, "-days", "1", "-subj", `/CN=${name} authority`],
    ...["-keyout", file("ca_key"), "-out", file("ca")],
  ], signal);
  await run([
    ...["openssl", "req", ...newKey, "-subj", "/CN=receiver"],
    ...["-keyout", file("key"), "-out", file("request")],
  ], signal);
  const extensions = "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n";
  await Deno.writeTextFile(file("extensions"), extensions);
  await run([
    ...["openssl", "x509", "-req", "-in", file("request"), "-CA", file("ca")],
    ...["-CAkey", file("ca_key"), "-CAcreateserial", "-days", "1"],
    ...["-extfile", file("extensions"), "-out", file("cert")],
  ], signal);
}

Deno.test({
  name: "security: a receiver with its operator's certificate, and senders that know the authority",
  ...requires("qemu-system-x86_64", "qemu-img", "openssl"),
  async fn() {
    const signal = limit();
    await using temp = await TempDir.create();
    await using site = await TestSite.create();
    await writeSecret(temp.file("secret"));
    for (const name of ["ours", "other"]) await makeAuthority(temp, name, signal);
    const secret = ["--secret-file", temp.file("secret")];
    const { agent, address } = await site.receive([
      ...["--serve", ...secret],
      ...["--tls-cert", temp.file("ours_cert.pem"), "--tls-key", temp.file("ours_key.pem")],
    ], signal);
    const send = ["--to", address, ...secret];
    const ca = (name: string) => ["--tls-ca", temp.file(`${name}_ca.pem`)];
    await moveGuest(site, { name: "first", temp, send: [...send, ...ca("ours")], signal });

    await makeBootDisk(temp.file("boot"), { signal });
    await using source = await startGuest(attach(temp.file("boot")), { signal });
    for (const wrong of [ca("other"), []]) {
      const args = ["send", "-q", "--qmp", source.qmpPath, ...send, ...wrong];
      const { code, error } = await site.start(args, signal).ended;
      assertEquals([error?.code, code], ["certificate_refused", REFUSED], wrong.join(" "));
    }
    agent.kill("SIGTERM");
    await agent.expectEnd(0);

    // The same by ticket, which then says that the authority is needed.
    const ticket = ["--ticket-file", temp.file("ticket")];
    const second = await site.receive([
      ...ticket,
      ...["--tls-cert", temp.file("ours_cert.pem"), "--tls-key", temp.file("ours_key.pem")],
    ], signal);
    const args = ["send", "-q", "--qmp", source.qmpPath, ...ticket];
    const { error } = await site.start(args, signal).ended;
    assertEquals(error?.code, "tls_ca_needed");
    await moveGuest(site, { name: "second", temp, send: [...ticket, ...ca("ours")], signal });
    await second.agent.expectEnd(0);
    await site.assertNoTemporaryFiles();
  },
});
