// What somebody who knows the secret, and is bent on harm, can say to a receiver: bytes that are no
// frames, frames that are no session, messages that are no conversation. One way a row.

import { delay } from "../../src/base/deadline.ts";
import { encodeFrame, encodePreface, HEADER_BYTES } from "../../src/wire/frame.ts";
import { makeNoise } from "../lib/disks.ts";
import type { Lab } from "./lab.ts";
import { join, readToEnd, say, sayForever } from "./raw_talk.ts";

export interface Malice {
  name: string;
  /** What the receiver's log must hold of it: codes of warnings or accounts. */
  reasons: readonly string[];
  /** How long it may last until the receiver has hung up. */
  limitMs: number;
  run(lab: Lab, signal: AbortSignal): Promise<void>;
}

const AT_ONCE_MS = 5000;
const SILENCE_MS = 8000;
const encoder = new TextEncoder();

/** A frame that may break every rule. */
function frame(type: number, stream: number, payload: Uint8Array, length = payload.length) {
  const header = new Uint8Array(HEADER_BYTES);
  const view = new DataView(header.buffer);
  view.setUint32(0, type << 24);
  view.setUint32(4, stream);
  view.setUint32(8, length);
  return join(header, payload);
}

const OPEN_CONTROL = encodeFrame({ type: "open", stream: 1, kind: "control" });
const DATA = 2;

/** A control message, or what stands in for one. */
function message(content: unknown): Uint8Array {
  const json = content instanceof Uint8Array
    ? content
    : encoder.encode(typeof content === "string" ? content : JSON.stringify(content));
  const unit = new Uint8Array(4 + json.length);
  new DataView(unit.buffer).setUint32(0, json.length);
  unit.set(json, 4);
  return frame(DATA, 1, unit);
}

const HELLO = message({
  id: 1,
  request: "hello",
  body: { protocol_versions: [1], agent_version: "0", features: [] },
});

/** Says all of `parts` and waits for the end. */
const saying = (...parts: Uint8Array[]): Malice["run"] => async (lab, signal) => {
  const link = await lab.connectProven(signal);
  const ended = readToEnd(link);
  await say(link, join(encodePreface(), ...parts));
  await ended;
};

/** Says `first`, then `rest` without end, and reads nothing. */
const sayingForever =
  (first: Uint8Array, rest: Uint8Array): Malice["run"] => async (lab, signal) => {
    const link = await lab.connectProven(signal);
    await say(link, join(encodePreface(), first));
    await sayForever(link, rest);
  };

const BROKEN = ["protocol_error", "bad_message", "not_migrate_agent", "wire_version_mismatch"];

export const MALICE: readonly Malice[] = [
  {
    name: "another protocol",
    reasons: ["not_migrate_agent"],
    limitMs: AT_ONCE_MS,
    async run(lab, signal) {
      const link = await lab.connectProven(signal);
      await say(link, encoder.encode("GET / HTTP/1.1\r\n\r\n"));
      await readToEnd(link);
    },
  },
  {
    name: "another version of the wire",
    reasons: ["wire_version_mismatch"],
    limitMs: AT_ONCE_MS,
    async run(lab, signal) {
      const link = await lab.connectProven(signal);
      const preface = encodePreface();
      preface[7] = 99;
      await say(link, preface);
      await readToEnd(link);
    },
  },
  {
    name: "a frame of 4 GiB",
    reasons: BROKEN,
    limitMs: AT_ONCE_MS,
    run: saying(OPEN_CONTROL, frame(DATA, 1, new Uint8Array(), 0xffffffff)),
  },
  {
    name: "a frame of an unknown type",
    reasons: BROKEN,
    limitMs: AT_ONCE_MS,
    run: saying(frame(99, 1, new Uint8Array(8))),
  },
  {
    name: "data on a stream that was never opened",
    reasons: BROKEN,
    limitMs: AT_ONCE_MS,
    run: saying(frame(DATA, 7, new Uint8Array(8))),
  },
  {
    name: "endless data on one stream, whatever the credit",
    reasons: BROKEN,
    limitMs: AT_ONCE_MS,
    run: sayingForever(
      join(encodeFrame({ type: "open", stream: 1, kind: "ram" })),
      frame(DATA, 1, new Uint8Array(2 ** 18)),
    ),
  },
  {
    name: "thousands of streams",
    reasons: [...BROKEN, "peer_silent", "connection_lost"],
    limitMs: SILENCE_MS,
    run: saying(
      ...Array.from(
        { length: 5000 },
        (_, at) => encodeFrame({ type: "open", stream: 2 * at + 1, kind: "nbd" }),
      ),
    ),
  },
  {
    name: "pings without end whose answers nobody reads",
    reasons: [...BROKEN, "peer_silent", "connection_lost"],
    limitMs: 30_000,
    run: sayingForever(
      new Uint8Array(),
      join(...Array.from(
        { length: 1000 },
        () => encodeFrame({ type: "ping", opaque: new Uint8Array(8) }),
      )),
    ),
  },
  {
    name: "a message of 4 GiB",
    reasons: BROKEN,
    limitMs: AT_ONCE_MS,
    run: saying(OPEN_CONTROL, frame(DATA, 1, Uint8Array.of(255, 255, 255, 255, 0x7b))),
  },
  {
    name: "a message that is no JSON",
    reasons: BROKEN,
    limitMs: AT_ONCE_MS,
    run: saying(OPEN_CONTROL, message("{]")),
  },
  {
    name: "a message that is not UTF-8",
    reasons: BROKEN,
    limitMs: AT_ONCE_MS,
    run: saying(OPEN_CONTROL, message(Uint8Array.of(0x7b, 0x22, 0xff, 0xfe, 0x22, 0x7d))),
  },
  {
    name: "a message nested a hundred thousand deep",
    reasons: BROKEN,
    limitMs: AT_ONCE_MS,
    run: saying(OPEN_CONTROL, message("[".repeat(100_000) + "]".repeat(100_000))),
  },
  {
    name: "a request nobody knows, then silence",
    reasons: ["unknown_request", "peer_silent", "connection_lost", "phase_timeout"],
    limitMs: SILENCE_MS,
    run: saying(OPEN_CONTROL, message({ id: 1, request: "__proto__", body: {} })),
  },
  {
    name: "the handover before anything else",
    reasons: ["request_out_of_order"],
    limitMs: AT_ONCE_MS,
    run: saying(OPEN_CONTROL, message({ id: 1, request: "handover", body: { run: true } })),
  },
  {
    name: "the disks before the plan",
    reasons: ["request_out_of_order", "peer_silent"],
    limitMs: SILENCE_MS,
    run: saying(
      OPEN_CONTROL,
      HELLO,
      encodeFrame({ type: "open", stream: 3, kind: "params" }),
      frame(DATA, 3, encoder.encode("{}")),
      encodeFrame({ type: "end", stream: 3 }),
      message({ id: 2, request: "prepare", body: { nbd: "direct" } }),
    ),
  },
  {
    name: "one request id twice",
    reasons: BROKEN,
    limitMs: AT_ONCE_MS,
    run: saying(OPEN_CONTROL, HELLO, HELLO),
  },
  {
    name: "a reply to nothing",
    reasons: BROKEN,
    limitMs: AT_ONCE_MS,
    run: saying(OPEN_CONTROL, message({ id: 1, reply: "hello", body: {} })),
  },
  {
    name: "a flood of requests",
    reasons: [...BROKEN, "request_out_of_order", "peer_silent"],
    limitMs: SILENCE_MS,
    run: saying(
      OPEN_CONTROL,
      ...Array.from(
        { length: 2000 },
        (_, at) => message({ id: at + 1, request: "hello", body: {} }),
      ),
    ),
  },
  {
    name: "a flood of warnings",
    reasons: ["too_many_notifications"],
    limitMs: 30_000,
    async run(lab, signal) {
      const link = await lab.connectProven(signal);
      const ended = readToEnd(link);
      const warning = message({
        notify: "warning",
        body: { code: "made_up", text: "x".repeat(900) },
      });
      await say(link, join(encodePreface(), OPEN_CONTROL));
      const many = join(...Array.from({ length: 64 }, () => warning));
      for (let sent = 0; sent < 32; sent++) await say(link, many);
      await ended;
    },
  },
  {
    name: "silence",
    reasons: ["peer_silent", "connection_lost"],
    limitMs: SILENCE_MS,
    run: saying(OPEN_CONTROL),
  },
  {
    name: "nothing but noise",
    reasons: BROKEN,
    limitMs: AT_ONCE_MS,
    run: saying(makeNoise(200_000)),
  },
  {
    name: "slow: a byte every second",
    reasons: ["asks_nothing", "protocol_error"],
    limitMs: 65_000,
    async run(lab, signal) {
      const link = await lab.connectProven(signal);
      const ended = readToEnd(link);
      const stop = new AbortController();
      ended.then(() => stop.abort());
      await say(link, encodePreface());
      const ping = encodeFrame({ type: "ping", opaque: new Uint8Array(8) });
      try {
        for (let at = 0;; at = (at + 1) % ping.length) {
          await say(link, ping.slice(at, at + 1));
          await delay(1000, stop.signal);
        }
      } catch (error) {
        if (!stop.signal.aborted) throw error;
      }
      await ended;
    },
  },
];
