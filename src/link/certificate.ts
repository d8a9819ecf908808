// Certificates for TLS between the two agents: self-signed, P-256, made by this program. The sender
// trusts the public key, which is all that a ticket has to carry; it builds the trust anchor for that
// key here as well. A few lines of DER over the runtime's own cryptography instead of a library: the
// smallest X.509 package for this adds 2.4 MB and 150 ms. Knows nothing of connections.
// Specification: docs/protocol.md, "Before the wire".

import { createECDH, createHash, hkdfSync } from "node:crypto";

/** The name that every certificate made here is for; private by ICANN's rule for `.internal`. */
export const SERVER_NAME = "migrate.internal";

/** An uncompressed P-256 point: 4, x, y. */
export const PUBLIC_KEY_BYTES = 65;

export interface Certificate {
  certPem: string;
  /** PKCS #8. */
  keyPem: string;
  publicKey: Uint8Array<ArrayBuffer>;
  /** SHA-256 of the whole certificate, lower-case hex with colons, as `openssl x509` prints it. */
  fingerprint: string;
}

interface Validity {
  notBeforeMs: number;
  /** Infinity: without end. */
  notAfterMs: number;
}

/** How far the two hosts' clocks may be apart without the sender finding the certificate invalid. */
const CLOCK_SKEW_MS = 24 * 3600 * 1000;

/** A certificate with a new key, for one session that ends at `untilMs` (Infinity: some day). */
export async function makeSessionCertificate(
  { nowMs, untilMs }: { nowMs: number; untilMs: number },
): Promise<Certificate> {
  const { privateKey, publicKey } = await crypto.subtle.generateKey(
    { name: "ECDSA", namedCurve: "P-256" },
    true,
    ["sign", "verify"],
  );
  return await certify({
    privateKey,
    publicKey: new Uint8Array(await crypto.subtle.exportKey("raw", publicKey)),
    pkcs8: new Uint8Array(await crypto.subtle.exportKey("pkcs8", privateKey)),
  }, { notBeforeMs: nowMs - CLOCK_SKEW_MS, notAfterMs: untilMs + CLOCK_SKEW_MS });
}

/**
 * A certificate whose key follows from `secret`: whoever knows the secret knows which receiver to
 * trust, without a certificate having to travel. It has no end: the secret is what is replaced.
 */
export async function makeDerivedCertificate(secret: Uint8Array): Promise<Certificate> {
  const { scalar, publicKey } = deriveKey(secret);
  const pkcs8 = encodePrivateKey(scalar, publicKey);
  const privateKey = await crypto.subtle.importKey(
    "pkcs8",
    pkcs8,
    { name: "ECDSA", namedCurve: "P-256" },
    false,
    ["sign"],
  );
  return await certify({ privateKey, publicKey, pkcs8 }, { notBeforeMs: 0, notAfterMs: Infinity });
}

/** The public key of `makeDerivedCertificate(secret)`. */
export function derivedPublicKey(secret: Uint8Array): Uint8Array<ArrayBuffer> {
  return deriveKey(secret).publicKey;
}

/**
 * What a TLS client is given to trust `publicKey` and nothing else: a certificate in form only (an
 * anchor's own signature is never looked at).
 */
export function makeTrustAnchor(publicKey: Uint8Array): string {
  const validity = { notBeforeMs: 0, notAfterMs: Infinity };
  const body = encodeBody(publicKey, { serial: Uint8Array.of(1), validity });
  return pem("CERTIFICATE", encodeSigned(body, new Uint8Array(64)));
}

/** SHA-256 of the key as certificates hold it (SubjectPublicKeyInfo): what the proof is bound to. */
export function hashPublicKey(publicKey: Uint8Array): Uint8Array {
  return createHash("sha256").update(encodePublicKey(publicKey)).digest();
}

interface KeyPair {
  privateKey: CryptoKey;
  publicKey: Uint8Array<ArrayBuffer>;
  pkcs8: Uint8Array;
}

async function certify(
  { privateKey, publicKey, pkcs8 }: KeyPair,
  validity: Validity,
): Promise<Certificate> {
  const serial = crypto.getRandomValues(new Uint8Array(16));
  serial[0] = serial[0]! & 0x3f | 0x40; // positive, and no leading zero
  const body = encodeBody(publicKey, { serial, validity });
  const algorithm = { name: "ECDSA", hash: "SHA-256" };
  const signature = new Uint8Array(await crypto.subtle.sign(algorithm, privateKey, body));
  const certificate = encodeSigned(body, signature);
  return {
    certPem: pem("CERTIFICATE", certificate),
    keyPem: pem("PRIVATE KEY", pkcs8),
    publicKey,
    fingerprint: createHash("sha256").update(certificate).digest("hex").match(/../g)!.join(":"),
  };
}

/** The order of the group of P-256. */
const ORDER = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n;

function deriveKey(
  secret: Uint8Array,
): { scalar: Uint8Array<ArrayBuffer>; publicKey: Uint8Array<ArrayBuffer> } {
  // 16 bytes more than the order has, so that taking the remainder prefers no value.
  const okm = hkdfSync("sha256", secret, new Uint8Array(), "migrate-agent tls key 1", 48);
  const value = BigInt("0x" + new Uint8Array(okm).toHex()) % (ORDER - 1n) + 1n;
  const scalar = Uint8Array.fromHex(value.toString(16).padStart(64, "0"));
  const ecdh = createECDH("prime256v1");
  ecdh.setPrivateKey(scalar);
  return { scalar, publicKey: new Uint8Array(ecdh.getPublicKey()) };
}

// DER from here on. Tags that are used:
const INTEGER = 0x02, BIT_STRING = 0x03, OCTET_STRING = 0x04, OID = 0x06, UTF8 = 0x0c;
const UTC_TIME = 0x17, GENERALIZED_TIME = 0x18, SEQUENCE = 0x30, SET = 0x31;
const EXPLICIT_0 = 0xa0, EXPLICIT_1 = 0xa1, EXPLICIT_3 = 0xa3, DNS_NAME = 0x82, BOOLEAN = 0x01;

const EC_KEY_ON_P256 = der(
  SEQUENCE,
  der(OID, Uint8Array.of(0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1)),
  der(OID, Uint8Array.of(0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7)),
);
const ECDSA_WITH_SHA256 = der(
  SEQUENCE,
  der(OID, Uint8Array.of(0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2)),
);
/** CN=migrate-agent: subject and issuer of all of them. */
const NAME = der(
  SEQUENCE,
  der(SET, der(SEQUENCE, der(OID, Uint8Array.of(0x55, 4, 3)), der(UTF8, ascii("migrate-agent")))),
);
const CRITICAL = der(BOOLEAN, Uint8Array.of(0xff));
const EXTENSIONS = der(
  EXPLICIT_3,
  der(
    SEQUENCE,
    // Basic constraints without the CA flag: TLS libraries refuse a server that is a CA.
    extension(19, CRITICAL, der(SEQUENCE)),
    // Key usage: digital signature.
    extension(15, CRITICAL, der(BIT_STRING, Uint8Array.of(7, 0x80))),
    // Subject alternative name.
    extension(17, new Uint8Array(), der(SEQUENCE, der(DNS_NAME, ascii(SERVER_NAME)))),
  ),
);

function extension(id: number, critical: Uint8Array, value: Uint8Array): Uint8Array {
  return der(SEQUENCE, der(OID, Uint8Array.of(0x55, 0x1d, id)), critical, der(OCTET_STRING, value));
}

function encodeBody(
  publicKey: Uint8Array,
  { serial, validity }: { serial: Uint8Array; validity: Validity },
): Uint8Array<ArrayBuffer> {
  return der(
    SEQUENCE,
    der(EXPLICIT_0, der(INTEGER, Uint8Array.of(2))), // version 3
    der(INTEGER, serial),
    ECDSA_WITH_SHA256,
    NAME,
    der(SEQUENCE, encodeTime(validity.notBeforeMs), encodeTime(validity.notAfterMs)),
    NAME,
    encodePublicKey(publicKey),
    EXTENSIONS,
  );
}

/** `signature` is r and s, 32 bytes each, as WebCrypto gives it. */
function encodeSigned(body: Uint8Array, signature: Uint8Array): Uint8Array<ArrayBuffer> {
  const value = der(
    SEQUENCE,
    encodeUnsigned(signature.subarray(0, 32)),
    encodeUnsigned(signature.subarray(32)),
  );
  return der(SEQUENCE, body, ECDSA_WITH_SHA256, der(BIT_STRING, Uint8Array.of(0), value));
}

function encodePublicKey(publicKey: Uint8Array): Uint8Array<ArrayBuffer> {
  return der(SEQUENCE, EC_KEY_ON_P256, der(BIT_STRING, Uint8Array.of(0), publicKey));
}

/** PKCS #8 with the public key in it, without which rustls takes no key. */
function encodePrivateKey(scalar: Uint8Array, publicKey: Uint8Array): Uint8Array<ArrayBuffer> {
  const key = der(
    SEQUENCE,
    der(INTEGER, Uint8Array.of(1)),
    der(OCTET_STRING, scalar),
    der(EXPLICIT_1, der(BIT_STRING, Uint8Array.of(0), publicKey)),
  );
  return der(SEQUENCE, der(INTEGER, Uint8Array.of(0)), EC_KEY_ON_P256, der(OCTET_STRING, key));
}

function encodeUnsigned(bytes: Uint8Array): Uint8Array {
  let from = 0;
  while (from < bytes.length - 1 && bytes[from] === 0) from++;
  const sign = bytes[from]! >= 0x80 ? [0] : [];
  return der(INTEGER, Uint8Array.of(...sign), bytes.subarray(from));
}

/** RFC 5280: two-digit years up to 2049; the last second of the year 9999 for "without end". */
function encodeTime(timeMs: number): Uint8Array {
  const text = Number.isFinite(timeMs)
    ? new Date(timeMs).toISOString().replace(/\.\d+|[-:T]/g, "")
    : "99991231235959Z";
  return text < "2050" ? der(UTC_TIME, ascii(text.slice(2))) : der(GENERALIZED_TIME, ascii(text));
}

function der(tag: number, ...parts: Uint8Array[]): Uint8Array<ArrayBuffer> {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  const head = length < 128
    ? [tag, length]
    : length < 256
    ? [tag, 0x81, length]
    : [tag, 0x82, length >> 8, length & 255];
  const result = new Uint8Array(head.length + length);
  result.set(head);
  let at = head.length;
  for (const part of parts) {
    result.set(part, at);
    at += part.length;
  }
  return result;
}

function ascii(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

function pem(label: string, bytes: Uint8Array): string {
  const lines = bytes.toBase64().match(/.{1,64}/g)!.join("\n");
  return `-----BEGIN ${label}-----\n${lines}\n-----END ${label}-----\n`;
}
