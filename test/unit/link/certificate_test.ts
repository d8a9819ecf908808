import { assert, assertEquals, assertNotEquals, assertStringIncludes } from "@std/assert";
import {
  derivedPublicKey,
  hashPublicKey,
  makeDerivedCertificate,
  makeSessionCertificate,
  makeTrustAnchor,
  PUBLIC_KEY_BYTES,
} from "../../../src/link/certificate.ts";
import { run } from "../../lib/command.ts";
import { requires } from "../../lib/requires.ts";
import { TempDir } from "../../lib/temp.ts";
import { never, SECRET } from "./fixture.ts";

const NOW_MS = Date.UTC(2026, 0, 1);
const HOUR_MS = 3600_000;

Deno.test({
  name: "openssl reads both kinds of certificate, finds them strictly valid, and their keys too",
  ...requires("openssl"),
  async fn() {
    await using temp = await TempDir.create();
    const session = await makeSessionCertificate({
      nowMs: Date.now(),
      untilMs: Date.now() + HOUR_MS,
    });
    for (const made of [session, await makeDerivedCertificate(SECRET)]) {
      const [cert, key] = [temp.file("cert.pem"), temp.file("key.pem")];
      await Deno.writeTextFile(cert, made.certPem);
      await Deno.writeTextFile(key, made.keyPem);
      const text = await run(
        ["openssl", "x509", "-in", cert, "-noout", "-text", "-fingerprint", "-sha256"],
        never,
      );
      for (const part of ["Version: 3", "CA:FALSE", "DNS:migrate.internal", "Digital Signature"]) {
        assertStringIncludes(text, part);
      }
      assertStringIncludes(text.toLowerCase(), made.fingerprint);
      const verify = ["verify", "-x509_strict", "-check_ss_sig", "-partial_chain"];
      await run(["openssl", ...verify, "-CAfile", cert, cert], never);
      await run(["openssl", "pkey", "-in", key, "-check", "-noout"], never);
      const ofKey = await run(["openssl", "pkey", "-in", key, "-pubout"], never);
      const ofCert = await run(["openssl", "x509", "-in", cert, "-noout", "-pubkey"], never);
      assertEquals(ofKey, ofCert);
    }
  },
});

Deno.test({
  name: "a session's certificate is valid for the session and a day's error of either clock",
  ...requires("openssl"),
  async fn() {
    await using temp = await TempDir.create();
    const { certPem } = await makeSessionCertificate({ nowMs: NOW_MS, untilMs: NOW_MS + HOUR_MS });
    await Deno.writeTextFile(temp.file("cert.pem"), certPem);
    const dates = ["openssl", "x509", "-in", temp.file("cert.pem"), "-noout", "-dates"];
    const text = await run(dates, never);
    assertEquals(text, "notBefore=Dec 31 00:00:00 2025 GMT\nnotAfter=Jan  2 01:00:00 2026 GMT\n");
    const late = await makeSessionCertificate({ nowMs: NOW_MS, untilMs: Date.UTC(2060, 1, 1) });
    await Deno.writeTextFile(temp.file("cert.pem"), late.certPem);
    assertStringIncludes(await run(dates, never), "notAfter=Feb  2 00:00:00 2060 GMT");
  },
});

Deno.test("each session has a key of its own", async () => {
  const when = { nowMs: NOW_MS, untilMs: NOW_MS };
  const [one, two] = [await makeSessionCertificate(when), await makeSessionCertificate(when)];
  assertEquals(one.publicKey.length, PUBLIC_KEY_BYTES);
  assertNotEquals(one.publicKey.toHex(), two.publicKey.toHex());
  assertNotEquals(hashPublicKey(one.publicKey), hashPublicKey(two.publicKey));
});

Deno.test("a derived key follows from the secret alone", async () => {
  const key = derivedPublicKey(SECRET).toHex();
  assertEquals(key, (await makeDerivedCertificate(SECRET)).publicKey.toHex());
  assertEquals(key, derivedPublicKey(SECRET.slice()).toHex());
  const other = SECRET.slice();
  other[31] = 8;
  assertNotEquals(key, derivedPublicKey(other).toHex());
});

Deno.test("a trust anchor holds nothing but the key", () => {
  const anchor = makeTrustAnchor(derivedPublicKey(SECRET));
  assertEquals(anchor, makeTrustAnchor(derivedPublicKey(SECRET)));
  assert(anchor.startsWith("-----BEGIN CERTIFICATE-----\n"));
});
