// The parts of `-drive` and `-blockdev` that describe an image: which stay when the image becomes one
// of this host, which go, and which cannot be had here. Keys are relative to one layer of the graph.

import { quote } from "../../base/errors.ts";
import { type Option, refuse } from "./options.ts";

/** Formats that an image may have here. */
export const FORMATS: ReadonlySet<string> = new Set(
  "raw qcow2 qcow qed vdi vmdk vpc vhdx parallels".split(" "),
);
/** Layers that change nothing of the image and stay. */
export const FILTERS: ReadonlySet<string> = new Set(["throttle", "copy-on-read"]);
/** Images of the host itself. */
export const LOCAL_PROTOCOLS: ReadonlySet<string> = new Set(["file", "host_device", "host_cdrom"]);

const words = (text: string) => new Set(text.split(" "));
/** For every node. */
const NODE_KEYS = words(
  "node-name read-only auto-read-only force-share detect-zeroes discard cache.direct cache.no-flush",
);
const FORMAT_KEYS: ReadonlyMap<string, ReadonlySet<string>> = new Map([
  [
    "qcow2",
    words(
      "lazy-refcounts pass-discard-request pass-discard-snapshot pass-discard-other " +
        "discard-no-unref cache-size l2-cache-size l2-cache-entry-size refcount-cache-size " +
        "cache-clean-interval overlap-check",
    ),
  ],
  ["throttle", words("throttle-group")],
]);
/** Of what a format checks before it writes, part by part. */
const FORMAT_CHECKS = /^overlap-check\.[a-z0-9-]+$/;
const PROTOCOL_KEYS = words("locking aio aio-max-batch");
/** For `-drive` alone: its place, and what its BlockBackend does. */
const DRIVE_KEYS = words(
  "id if index bus unit media werror rerror cache cache.writeback aio copy-on-read readonly group " +
    "stats-account-invalid stats-account-failed snapshot",
);
const THROTTLING = /^(throttling\.[a-z-]+|(iops|bps)(_(rd|wr))?(_max(_length)?)?|iops_size)$/;

/** What becomes of a key: it stays, it goes with the source's image, or nobody knows it. */
export type Fate = "keep" | "drop" | "unknown";

/**
 * A key of the format layer, or of a filter above it. `driver` is this host's; `isCopy` says that the
 * image is a flat copy and not the source's own.
 */
export function fateOfFormatKey(
  key: string,
  { driver, isCopy }: { driver: string; isCopy: boolean },
): Fate {
  const isOwn = FORMAT_KEYS.get(driver)?.has(key) ||
    (driver === "qcow2" && FORMAT_CHECKS.test(key));
  if (NODE_KEYS.has(key) || isOwn) return "keep";
  const isWindow = driver === "raw" && (key === "offset" || key === "size");
  if (!isCopy) return isWindow ? "keep" : "unknown";
  // A backing chain is copied flat, and a window of a raw file as a whole.
  const [first] = key.split(".");
  return isWindow || first === "backing" || first === "data-file" ? "drop" : "unknown";
}

/** A key of the protocol layer; all that belongs to the source's storage goes. */
export function fateOfProtocolKey(key: string): Fate {
  return NODE_KEYS.has(key) || PROTOCOL_KEYS.has(key) ? "keep" : "drop";
}

/** A key of `-drive` that describes neither layer of the image. */
export function isDriveKey(key: string): boolean {
  return DRIVE_KEYS.has(key) || THROTTLING.test(key);
}

/** Refuses what no image here can have. */
export function refuseSecretsAndPrograms(option: Option): void {
  for (const { key, value } of option.args?.pairs ?? []) {
    const name = key.split(".").findLast((part) =>
      ["encrypt", "encryption", "key-secret", "pr-manager"].includes(part)
    );
    if (name) refuse(option, `has ${quote(key)}: encrypted and reserved images are not supported`);
    if ((key === "driver" || key.endsWith(".driver") || key === "format") && value === "luks") {
      refuse(option, "is an encrypted image, whose key is not sent");
    }
    if (key === "snapshot" && value !== "off") {
      refuse(option, "writes to a temporary file that no other host has");
    }
  }
}
