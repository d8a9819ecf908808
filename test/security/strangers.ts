// What somebody who does not know the secret can try on a receiver, one way a row, with the reasons
// that the receiver's own log may give for turning him away.

import { assertEquals, assertGreater, assertLess, assertMatch } from "@std/assert";
import { delay } from "../../src/base/deadline.ts";
import { derivedPublicKey } from "../../src/link/certificate.ts";
import { dialSecure } from "../../src/link/secure.ts";
import { trustKey } from "../../src/link/tls.ts";
import { makeNoise } from "../lib/disks.ts";
import type { Lab } from "./lab.ts";
import { HELLO_HEAD, join, readToEnd, say, sayForever } from "./raw_talk.ts";
import { Impostor, RecordingRelay } from "./relays.ts";

export interface Attack {
  name: string;
  reasons: readonly string[];
  /** How long it may last until the receiver has hung up. */
  limitMs: number;
  run(lab: Lab, signal: AbortSignal): Promise<void>;
}

/** A wrong proof is answered after a delay of a second. */
const REFUSED_MS = 3000;
/** The time for the proof is 10 s. */
const TIMED_OUT_MS = 12_000;
const HELLO_BYTES = 40;
const encode = (text: string) => new TextEncoder().encode(text);

/** Dials with this secret, trusting this key; `code` is that of the refusal, or "let in". */
async function expectOutcome(
  lab: Lab,
  { port, publicKey, secret, signal, code }: {
    port: number;
    publicKey: Uint8Array;
    secret: Uint8Array;
    signal: AbortSignal;
    code: string;
  },
): Promise<void> {
  const address = { host: "127.0.0.1", port };
  const target = { address, trust: trustKey(publicKey), secret, migrationId: "" };
  const dialling = dialSecure(target, { signal, timeoutMs: TIMED_OUT_MS });
  const outcome = await dialling.then(
    ({ link }) => (link.close(), "let in"),
    (error) => error.code ?? String(error),
  );
  assertEquals(outcome, code, lab.receiver.agent.describe());
}

/** openssl's client with nothing but TLS 1.2, which says a hello and a made-up proof. */
async function speakTls12(port: number, more: string[]): Promise<string> {
  const child = new Deno.Command("timeout", {
    args: ["20", "openssl", "s_client", "-connect", `127.0.0.1:${port}`, "-tls1_2", ...more],
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const writer = child.stdin.getWriter();
  // It may have ended before it has read that.
  await writer.write(join(HELLO_HEAD, makeNoise(64))).catch(() => {});
  const { stdout, stderr } = await child.output();
  await writer.close().catch(() => {});
  return new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
}

export const ATTACKS: readonly Attack[] = [
  {
    name: "no secret: a proper hello and a made-up proof",
    reasons: ["proof_wrong"],
    limitMs: REFUSED_MS,
    async run(lab, signal) {
      const link = await lab.connectTls(signal);
      await say(link, join(HELLO_HEAD, makeNoise(64)));
      const answer = await readToEnd(link);
      assertEquals([answer.length, answer.at(-1)], [HELLO_BYTES + 1, 0]);
    },
  },
  {
    name: "no secret: another protocol inside TLS",
    reasons: ["not_migrate_agent"],
    limitMs: REFUSED_MS,
    async run(lab, signal) {
      const link = await lab.connectTls(signal);
      await say(link, encode("GET / HTTP/1.1\r\nHost: receiver.example.com\r\n\r\n"));
      assertEquals(await readToEnd(link), Uint8Array.of(0));
    },
  },
  {
    name: "wrong secret",
    reasons: ["proof_wrong"],
    limitMs: REFUSED_MS,
    run: (lab, signal) =>
      expectOutcome(lab, {
        port: lab.receiver.port,
        publicKey: derivedPublicKey(lab.secret),
        secret: makeNoise(32),
        signal,
        code: "proof_refused",
      }),
  },
  {
    name: "replay: all bytes of a sender's connection once more",
    reasons: ["tls_refused", "tls_failed", "link_ended"],
    limitMs: REFUSED_MS,
    async run(lab, signal) {
      await using relay = new RecordingRelay({ to: lab.receiver.port });
      await expectOutcome(lab, {
        port: relay.port,
        publicKey: derivedPublicKey(lab.secret),
        secret: lab.secret,
        signal,
        code: "let in",
      });
      const [recorded] = relay.recorded;
      assertGreater(recorded!.length, 300);
      const conn = await lab.connect();
      await say(conn, recorded!);
      assertLess((await readToEnd(conn)).length, 4096, "more than a handshake came back");
    },
  },
  {
    name: "replay: a sender's nonce and proof once more inside TLS",
    reasons: ["proof_replayed"],
    limitMs: 2 * REFUSED_MS,
    async run(lab, signal) {
      const said = join(HELLO_HEAD, makeNoise(64));
      for (let times = 0; times < 2; times++) {
        const link = await lab.connectTls(signal);
        await say(link, said);
        assertEquals((await readToEnd(link)).length, HELLO_BYTES + 1);
      }
    },
  },
  {
    name: "reflection: the receiver's own nonce as the proof",
    reasons: ["proof_reflected"],
    limitMs: REFUSED_MS,
    async run(lab, signal) {
      const link = await lab.connectTls(signal);
      await say(link, join(HELLO_HEAD, makeNoise(32)));
      const hello = new Uint8Array(HELLO_BYTES);
      for (let got = 0; got < HELLO_BYTES;) got += (await link.read(hello.subarray(got))) ?? 99;
      await say(link, hello.subarray(HELLO_HEAD.length));
      assertEquals(await readToEnd(link), Uint8Array.of(0));
    },
  },
  {
    name: "man in the middle with a certificate of his own: the sender leaves",
    reasons: ["link_ended", "handshake_timeout"],
    limitMs: TIMED_OUT_MS,
    async run(lab, signal) {
      await using impostor = await Impostor.start({ dial: () => lab.connectTls(signal), signal });
      await expectOutcome(lab, {
        port: impostor.port,
        publicKey: derivedPublicKey(lab.secret),
        secret: lab.secret,
        signal,
        code: "certificate_refused",
      });
      assertEquals(impostor.heardBytes, 0, "the sender said something to the man in the middle");
      (await lab.connectTls(signal)).close(); // what he could do instead
    },
  },
  {
    name: "man in the middle whom the sender trusts: the proof is of another connection",
    reasons: ["proof_wrong"],
    limitMs: REFUSED_MS,
    async run(lab, signal) {
      await using impostor = await Impostor.start({ dial: () => lab.connectTls(signal), signal });
      await expectOutcome(lab, {
        port: impostor.port,
        publicKey: impostor.publicKey,
        secret: lab.secret,
        signal,
        code: "proof_refused",
      });
      assertGreater(impostor.heardBytes, 0);
    },
  },
  {
    name: "downgrade: a proof without TLS",
    reasons: ["peer_without_tls"],
    limitMs: REFUSED_MS,
    async run(lab) {
      const conn = await lab.connect();
      await say(conn, join(HELLO_HEAD, makeNoise(64)));
      assertLess((await readToEnd(conn)).length, 16, "more than a TLS alert came back");
    },
  },
  {
    name: "downgrade: TLS 1.2 only",
    reasons: ["tls_version"],
    limitMs: TIMED_OUT_MS,
    async run(lab) {
      assertMatch(await speakTls12(lab.receiver.port, []), /s_client|alert|CONNECTED|no peer/i);
    },
  },
  {
    name: "downgrade: TLS 1.2 only, for the right protocol",
    reasons: ["tls_version"],
    limitMs: TIMED_OUT_MS,
    async run(lab) {
      await speakTls12(lab.receiver.port, ["-alpn", "migrate-agent/1", "-quiet"]);
    },
  },
  {
    name: "endless stream of noise",
    reasons: ["peer_without_tls"],
    limitMs: REFUSED_MS,
    async run(lab) {
      const sent = await sayForever(await lab.connect(), makeNoise(65536));
      assertLess(sent, 2 ** 24, "it went on listening");
    },
  },
  {
    name: "endless stream inside TLS",
    reasons: ["not_migrate_agent"],
    limitMs: REFUSED_MS,
    async run(lab, signal) {
      const sent = await sayForever(await lab.connectTls(signal), makeNoise(65536));
      assertLess(sent, 2 ** 26, "it went on listening");
    },
  },
];

/** Those that are about time: they can go on side by side. */
export const SLOW_ATTACKS: readonly Attack[] = [
  {
    name: "half-open: hundreds of connections that say nothing",
    reasons: ["handshake_timeout"],
    limitMs: TIMED_OUT_MS,
    async run(lab) {
      const conns = await Promise.all(Array.from({ length: 400 }, () => lab.connect()));
      await Promise.all(conns.map(readToEnd));
    },
  },
  {
    name: "half-open: TLS and then nothing",
    reasons: ["handshake_timeout"],
    limitMs: TIMED_OUT_MS,
    async run(lab, signal) {
      assertEquals((await readToEnd(await lab.connectTls(signal))).length, 0);
    },
  },
  {
    name: "slow: a byte of the hello every half a second",
    reasons: ["handshake_timeout"],
    limitMs: TIMED_OUT_MS,
    async run(lab, signal) {
      const link = await lab.connectTls(signal);
      const ended = readToEnd(link);
      const stop = new AbortController();
      ended.then(() => stop.abort());
      const hello = join(HELLO_HEAD, makeNoise(32));
      try {
        for (const byte of hello) {
          await say(link, Uint8Array.of(byte));
          await delay(500, stop.signal);
        }
      } catch (error) {
        if (!stop.signal.aborted) throw error;
      }
      await ended;
    },
  },
];
