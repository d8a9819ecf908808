// The numbers of the stream that `xl migrate` writes: magic bytes, versions, the records of its two
// layers, and how long each may be. Knows nothing of how bytes arrive.
// Specification: Xen's docs/specs/libxl-migration-stream (version 2) and libxc-migration-stream
// (versions 2 and 3); xl's own header and texts have none but xl itself (Xen 4.6 and later).

import { AgentError } from "../../base/errors.ts";
import type { Check } from "./steps.ts";

const encoder = new TextEncoder();

export const XL_MAGIC = encoder.encode("Xen saved domain, xl format\n \0 \r");
/** The magic and four numbers: byte order, mandatory flags, optional flags, length of the options. */
export const XL_HEADER_BYTES = 48;
export const BYTE_ORDER = 0x01020304;
/** A JSON configuration, and libxl's stream in its second version: xl always writes both. */
export const MANDATORY_FLAGS = 3;
/** The configuration of a domain with one disk has 1.3 KiB. */
export const MAX_OPTIONS_BYTES = 1 << 20;

export const LIBXL_IDENT = encoder.encode("LibxlFmt");
export const LIBXL_VERSION = 2;
/** Eight times 0xff and the name: images of Xen 4.5 and earlier begin otherwise. */
export const LIBXC_MARKER = Uint8Array.of(
  ...new Array<number>(8).fill(0xff),
  0x58,
  0x45,
  0x4e,
  0x46,
);
/** Version 2 (Xen 4.6 to 4.13) has no STATIC_DATA_END; the rest is the same. */
export const LIBXC_VERSIONS: readonly number[] = [2, 3];
export const HVM_GUEST = 2;
export const PAGE_BYTES = 4096;
export const PAGE_SHIFT = 12;

export const RECORD_HEADER_BYTES = 8;
/** A record with this bit may be ignored by who does not know it. */
export const OPTIONAL_RECORD = 0x80000000;
const MAX_OPTIONAL_BYTES = 1 << 20;

interface RecordRule {
  readonly name: string;
  readonly minBytes: number;
  readonly maxBytes: number;
}

export const END = 0;
export const LIBXC_CONTEXT = 1;
export const PAGE_DATA = 1;
export const VERIFY = 0xd;

/** What may be in the stream of an HVM guest's migration. libxl itself would take any length. */
const LIBXL_RECORDS: ReadonlyMap<number, RecordRule> = new Map([
  [END, rule("END", 0, 0)],
  [LIBXC_CONTEXT, rule("LIBXC_CONTEXT", 0, 0)],
  [2, rule("EMULATOR_XENSTORE_DATA", 8, 1 << 20)],
  [3, rule("EMULATOR_CONTEXT", 8, 64 << 20)],
]);

/** Those of an HVM guest. libxc allows 128 MiB for each. */
const LIBXC_RECORDS: ReadonlyMap<number, RecordRule> = new Map([
  [END, rule("END", 0, 0)],
  // The count, and one page frame number at least.
  [PAGE_DATA, rule("PAGE_DATA", 16, 128 << 20)],
  [0x8, rule("X86_TSC_INFO", 24, 24)],
  [0x9, rule("HVM_CONTEXT", 0, 16 << 20)],
  // Xen 4.6 to 4.8 could write it empty.
  [0xa, rule("HVM_PARAMS", 0, 1 << 20)],
  [VERIFY, rule("VERIFY", 0, 0)],
  [0x10, rule("STATIC_DATA_END", 0, 0)],
  [0x11, rule("X86_CPUID_POLICY", 0, 1 << 20)],
  [0x12, rule("X86_MSR_POLICY", 0, 1 << 20)],
]);

/** Known, and never in the migration of an HVM guest. */
const FOREIGN_RECORDS = {
  libxl: new Map([
    [4, "CHECKPOINT_END of Remus or COLO"],
    [5, "CHECKPOINT_STATE of COLO"],
  ]),
  libxc: new Map([
    [0x2, "X86_PV_INFO of a PV guest"],
    [0x3, "X86_PV_P2M_FRAMES of a PV guest"],
    [0x4, "X86_PV_VCPU_BASIC of a PV guest"],
    [0x5, "X86_PV_VCPU_EXTENDED of a PV guest"],
    [0x6, "X86_PV_VCPU_XSAVE of a PV guest"],
    [0x7, "SHARED_INFO of a PV guest"],
    [0xb, "TOOLSTACK, which nobody uses any more"],
    [0xc, "X86_PV_VCPU_MSRS of a PV guest"],
    [0xe, "CHECKPOINT of Remus or COLO"],
    [0xf, "CHECKPOINT_DIRTY_PFN_LIST of COLO"],
  ]),
};

export type Layer = "libxl" | "libxc";

/**
 * The rule for a record of that type and length.
 * @throws AgentError `xen_stream_record` for a type that must be understood and is not,
 *   `xen_stream_limit` for a length that it cannot have
 */
export function ruleOf(
  layer: Layer,
  { type, lengthBytes, offset }: { type: number; lengthBytes: number; offset: number },
): RecordRule {
  const known = layer === "libxl" ? LIBXL_RECORDS : LIBXC_RECORDS;
  const found = type >= OPTIONAL_RECORD ? rule("optional", 0, MAX_OPTIONAL_BYTES) : known.get(type);
  if (!found) {
    const foreign = FOREIGN_RECORDS[layer].get(type);
    const why = foreign ?? "which is not understood, and may not be ignored";
    throw streamError("record", `a ${layer} record of type 0x${type.toString(16)}, ${why}`, offset);
  }
  if (lengthBytes < found.minBytes || lengthBytes > found.maxBytes) {
    const { name, minBytes, maxBytes } = found;
    const right = minBytes === maxBytes ? `${minBytes}` : `${minBytes} to ${maxBytes}`;
    throw streamError(
      "limit",
      `a ${layer} record ${name} of ${lengthBytes} bytes (it can have ${right})`,
      offset,
    );
  }
  return found;
}

const HINTS = {
  malformed: undefined,
  limit: undefined,
  version: "Known are Xen 4.6 and later, with libxl's stream 2 and libxc's images 2 and 3.",
  record: "Known is what Xen writes when it migrates an HVM guest.",
  truncated: "The messages of xl on the side that wrote it say more.",
} as const;

/** An AgentError `xen_stream_...`; `text` says what there is, and `offset` is its first byte's. */
export function streamError(code: keyof typeof HINTS, text: string, offset: number): AgentError {
  const hint = HINTS[code];
  return new AgentError(
    `xen_stream_${code}`,
    `The domain's migration stream has at byte ${offset} ${text}`,
    hint === undefined ? {} : { hint },
  );
}

/**
 * A check for what must begin with `bytes` (all of it, when it is no longer than that); `text` says what
 * it is otherwise.
 */
export function expectBytes(bytes: Uint8Array, text: string): Check {
  return (part, offset) => {
    const length = Math.min(part.length, bytes.length);
    for (let i = 0; i < length; i++) {
      if (part[i] !== bytes[i]) throw streamError("malformed", text, offset);
    }
  };
}

function rule(name: string, minBytes: number, maxBytes: number): RecordRule {
  return { name, minBytes, maxBytes };
}
