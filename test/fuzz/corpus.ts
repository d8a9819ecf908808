// What the mutations start from, recorded from real runs: the frames and control messages of a
// mirrored migration, and the params documents of five QEMU 7.2 command lines of different styles.

import type { QemuParams } from "../../src/guest/params.ts";
import frames from "./corpus/frames.json" with { type: "json" };
import messages from "./corpus/messages.json" with { type: "json" };
import params from "./corpus/params.json" with { type: "json" };
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
