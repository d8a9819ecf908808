// The grammar of libxc's image within libxl's stream: the memory of an HVM guest and what Xen itself
// knows of it. Page contents are passed over.
// Specification: Xen's docs/specs/libxc-migration-stream.

import {
  END,
  expectBytes,
  HVM_GUEST,
  LIBXC_MARKER,
  LIBXC_VERSIONS,
  PAGE_BYTES,
  PAGE_DATA,
  PAGE_SHIFT,
  RECORD_HEADER_BYTES,
  ruleOf,
  streamError,
  VERIFY,
} from "./format.ts";
import type { Progress } from "./progress.ts";
import { extend, pass, type Steps, take } from "./steps.ts";

const IMAGE_HEADER_BYTES = 24;
const DOMAIN_HEADER_BYTES = 16;
/** The count (4), reserved (4), and one page frame number (8) for each page. */
const PAGE_HEADER_BYTES = 8;
const PFN_BYTES = 8;
/** The upper bits are the page's type. */
const PFN_HIGH_MASK = 0x000fffff;

/** Reads up to and with the image's END. */
export function* readLibxcImage<K extends string>(progress: Progress): Steps<K, void> {
  yield* readImageHeader<K>(progress);
  yield* readDomainHeader<K>(progress);
  for (;;) {
    const { view, offset } = yield* take<K>(RECORD_HEADER_BYTES);
    const type = view.getUint32(0, true);
    const lengthBytes = view.getUint32(4, true);
    const { name } = ruleOf("libxc", { type, lengthBytes, offset });
    progress.countRecord("libxc", name);
    if (type === END) return;
    if (type === VERIFY) progress.verifies = true;
    if (type === PAGE_DATA) yield* readPages<K>(lengthBytes, progress);
    else yield* pass<K>(Math.ceil(lengthBytes / 8) * 8);
  }
}

function* readImageHeader<K extends string>(progress: Progress): Steps<K, void> {
  const marker = expectBytes(LIBXC_MARKER, "what is no libxc image of Xen 4.6 or later");
  const { view, offset } = yield* take<K>(IMAGE_HEADER_BYTES, marker);
  const version = view.getUint32(LIBXC_MARKER.length);
  if (!LIBXC_VERSIONS.includes(version)) {
    const known = LIBXC_VERSIONS.join(" and ");
    throw streamError(
      "version",
      `a libxc image of version ${version} (known are ${known})`,
      offset,
    );
  }
  if ((view.getUint16(LIBXC_MARKER.length + 4) & 1) !== 0) {
    throw streamError("version", "a libxc image in big-endian byte order", offset);
  }
  progress.imageVersion = version;
}

function* readDomainHeader<K extends string>(progress: Progress): Steps<K, void> {
  const { view, offset } = yield* take<K>(DOMAIN_HEADER_BYTES);
  const type = view.getUint32(0, true);
  if (type !== HVM_GUEST) {
    const what = `a guest of type ${type}, and only HVM guests (type ${HVM_GUEST}) are understood`;
    throw streamError("record", what, offset);
  }
  const shift = view.getUint16(4, true);
  if (shift !== PAGE_SHIFT) {
    throw streamError("malformed", `pages of 2^${shift} bytes (x86 has 2^${PAGE_SHIFT})`, offset);
  }
  progress.xenVersion = `${view.getUint32(8, true)}.${view.getUint32(12, true)}`;
}

/** The header of the record is the take that this extends. */
function* readPages<K extends string>(lengthBytes: number, progress: Progress): Steps<K, void> {
  const { view, offset } = yield* extend<K>(PAGE_HEADER_BYTES + PFN_BYTES);
  const count = view.getUint32(RECORD_HEADER_BYTES, true);
  const contentBytes = lengthBytes - PAGE_HEADER_BYTES - count * PFN_BYTES;
  const present = contentBytes / PAGE_BYTES;
  // Not every page has contents: there may be none at that address.
  if (count === 0 || !Number.isInteger(present) || present < 0 || present > count) {
    throw streamError(
      "malformed",
      `a libxc record PAGE_DATA of ${lengthBytes} bytes for ${count} pages`,
      offset,
    );
  }
  const firstPfn = pageFrame(view, RECORD_HEADER_BYTES + PAGE_HEADER_BYTES);
  let lastPfn = firstPfn;
  if (count > 1) {
    yield* pass<K>((count - 2) * PFN_BYTES);
    lastPfn = pageFrame((yield* take<K>(PFN_BYTES)).view, 0);
  }
  progress.countPages({ firstPfn, lastPfn, present });
  yield* pass<K>(contentBytes);
}

function pageFrame(view: DataView, at: number): number {
  return (view.getUint32(at + 4, true) & PFN_HIGH_MASK) * 2 ** 32 + view.getUint32(at, true);
}
