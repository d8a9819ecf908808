// What the mutations start from, recorded from real runs: the frames and control messages of a
// mirrored migration, the params documents of five QEMU 7.2 command lines of different styles, and
// what two xl of Xen 4.17 said to each other.

import type { QemuParams } from "../../src/guest/params.ts";
import frames from "./corpus/frames.json" with { type: "json" };
import messages from "./corpus/messages.json" with { type: "json" };
import params from "./corpus/params.json" with { type: "json" };
import xen from "./corpus/xen.json" with { type: "json" };
import type { Json } from "./mutate_json.ts";

export type Way = "sender" | "receiver";

/** The preface and then whole frames, as each side wrote them; RAM is cut short. */
export const FRAMES: Readonly<Record<Way, readonly Uint8Array[]>> = {
  sender: frames.sender.map((hex) => Uint8Array.fromHex(hex)),
  receiver: frames.receiver.map((hex) => Uint8Array.fromHex(hex)),
};

export const MESSAGES: readonly Json[] = messages as Json[];

/** Images lie in /src there. */
export const PARAMS: readonly QemuParams[] = Object.values(params) as QemuParams[];

/**
 * `xl migrate` and `xl migrate-receive` of Xen 4.17, cut to a few pages, with contents zeroed: a header,
 * the head of a record or a body at a time, as hex, or as "00*N". `sender_debug` is `xl migrate --debug`;
 * its receiver, `receiver_failed`, could not rename the domain.
 */
export const XEN: Readonly<Record<keyof typeof xen, readonly string[]>> = xen;

/** The bytes that such parts are. */
export function fromParts(parts: readonly string[]): Uint8Array {
  return Uint8Array.fromHex(
    parts.map((part) => part.startsWith("00*") ? "00".repeat(Number(part.slice(3))) : part).join(
      "",
    ),
  );
}
