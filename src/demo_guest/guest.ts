// The tiny guest as seen from outside: makes its boot program and reads its status block.
// `migrate-agent demo` and the tests judge a migration by it: a counter that never stops, memory and
// disks that it checks itself. Knows nothing of QMP: it names the monitor command that shows the
// status and understands the answer; somebody else sends it.
// The layouts are those of guest.asm and change together with it.

import { AgentError, quote } from "../base/errors.ts";
import { IMAGE_BASE64 } from "./image.ts";

/** What the guest does in each turn; all of it optional. */
export interface TinyGuestOptions {
  /** Which BIOS disks it stamps, bit 0 the first; default: all (at most 8). */
  diskMask?: number;
  /** First sector that may be stamped; default 64. Below it the boot program lives. */
  firstLba?: number;
  /** Sectors stamped per disk, spread over all of it (at most 8192); default 256. */
  slots?: number;
  /** Memory that it dirties and checks, from 2 MiB up, a multiple of 4096; default 1 MiB. */
  windowBytes?: number;
  /** Pages of 4 KiB dirtied per turn; default 4. */
  pagesPerTurn?: number;
  /**
   * From one turn to the next in ms (0: no rest); default 20. Emulated, a turn takes about 1 ms of
   * processor time with IDE and NVMe disks. With virtio it takes several: the firmware's driver makes
   * QEMU sync every write and waits busily meanwhile (7.2; `cache=unsafe` spares the sync).
   */
  turnMs?: number;
  /** Turns per line on COM1 and port 0xe9 (0: no lines); default 64. */
  reportEvery?: number;
}

/** What the guest says about itself. All counts begin at 0 when it boots. */
export interface TinyGuestStatus {
  /** Turns begun. It never goes back, unless the guest was reset. */
  count: number;
  /** Sectors that did not hold what was written there last. */
  badDisk: number;
  /** Pages that did not hold what was written there last. */
  badRam: number;
  /** Reads and writes that failed. */
  ioErrors: number;
  /** Disks that it found and stamps. */
  disks: number;
  /** Bytes of its memory window, after it was fitted to the memory that there is. */
  windowBytes: number;
  /** Whole passes over the window; checking begins in the second. */
  laps: number;
  /** The first bad sector, when `badDisk` is not 0. */
  firstBad: { disk: number; slot: number; expected: number; found: number } | null;
}

/** Physical address of the status block. */
export const STATUS_ADDRESS = 0x5000;
/** Size of the status block in bytes. */
export const STATUS_BYTES = 52;
/** Command for QEMU's human monitor whose answer `parseMonitorDump` understands. */
export const STATUS_COMMAND = `xp /${STATUS_BYTES / 4}wx 0x${STATUS_ADDRESS.toString(16)}`;

const STATUS_MAGIC = 0x3147414d; // "MAG1"
const PARAMS_OFFSET = 512 + 4; // behind the block's magic
const WINDOW_BASE = 0x200000;
const PAGE_BYTES = 4096;
const MAX_SLOTS = 8192;
const MAX_WINDOW_PAGES = (0xc0000000 - WINDOW_BASE) / PAGE_BYTES; // below the PCI hole
const STAMP_TEXT = "tiny guest stamp";
const MAX_U32 = 0xffffffff;

/** The first bytes of a disk that boots the tiny guest; the rest of the disk may hold anything. */
export function makeBootProgram(options: TinyGuestOptions = {}): Uint8Array<ArrayBuffer> {
  const timer = timerRate(check("turnMs", options.turnMs ?? 20, [0, 3_600_000]));
  const windowBytes = options.windowBytes ?? 1024 * 1024;
  const words = [
    check("diskMask", options.diskMask ?? 0xff, [0, 0xff]),
    check("firstLba", options.firstLba ?? 64, [4, MAX_U32]),
    check("slots", options.slots ?? 256, [1, MAX_SLOTS]),
    WINDOW_BASE,
    check("windowBytes / 4096", windowBytes / PAGE_BYTES, [0, MAX_WINDOW_PAGES]),
    check("pagesPerTurn", options.pagesPerTurn ?? 4, [0, MAX_U32]),
    timer.divisor,
    timer.ticks,
    check("reportEvery", options.reportEvery ?? 64, [0, MAX_U32]),
  ];
  const image = Uint8Array.from(atob(IMAGE_BASE64), (c) => c.charCodeAt(0));
  const view = new DataView(image.buffer);
  words.forEach((word, i) => view.setUint32(PARAMS_OFFSET + 4 * i, word, true));
  return image;
}

function check(name: string, value: number, [min, max]: [number, number]): number {
  if (Number.isInteger(value) && value >= min && value <= max) return value;
  throw new AgentError(
    "bad_tiny_guest_option",
    `Cannot make the tiny guest: ${name} is ${value}, but must be an integer from ${min} to ${max}`,
    { kind: "usage" },
  );
}

/** The PC's timer divides 1193182 Hz by 16 bits, so that longer turns need more ticks. */
function timerRate(turnMs: number): { divisor: number; ticks: number } {
  const cycles = turnMs * 1193.182;
  const ticks = Math.ceil(cycles / 65535);
  return { divisor: ticks === 0 ? 65535 : Math.round(cycles / ticks), ticks };
}

/** The status in `bytes` (the memory at STATUS_ADDRESS), or null while the guest is not up yet. */
export function parseStatus(bytes: Uint8Array): TinyGuestStatus | null {
  if (bytes.length < STATUS_BYTES) {
    throw new AgentError(
      "bad_tiny_guest_status",
      `Cannot read the tiny guest's status: ${bytes.length} bytes, but ${STATUS_BYTES} are needed`,
    );
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const word = (i: number) => view.getUint32(4 * i, true);
  if (word(0) !== STATUS_MAGIC) return null;
  return {
    count: word(1),
    badDisk: word(2),
    badRam: word(3),
    ioErrors: word(4),
    disks: word(5),
    windowBytes: word(6) * PAGE_BYTES,
    laps: word(7),
    firstBad: word(2) === 0
      ? null
      : { disk: word(9), slot: word(10), expected: word(11), found: word(12) },
  };
}

/** The turn in which a sector of a disk was stamped; null for one that holds something else. */
export function parseStamp(sector: Uint8Array): number | null {
  const view = new DataView(sector.buffer, sector.byteOffset, sector.byteLength);
  const text = new TextDecoder("latin1").decode(sector.subarray(0, STAMP_TEXT.length));
  return text === STAMP_TEXT ? view.getUint32(STAMP_TEXT.length, true) : null;
}

/** The memory in an answer to STATUS_COMMAND: lines of `0000000000005000: 0x3147414d 0x00000001 ...`. */
export function parseMonitorDump(text: string): Uint8Array<ArrayBuffer> {
  const words: number[] = [];
  for (const line of text.split(/\r?\n/).filter((line) => line !== "")) {
    if (!/^[0-9a-f]+:( 0x[0-9a-f]{8})+$/.test(line)) {
      throw new AgentError(
        "bad_tiny_guest_status",
        `Cannot read the tiny guest's status: the monitor's answer has the line ${quote(line)}`,
      );
    }
    words.push(...line.split(" ").slice(1).map(Number));
  }
  const bytes = new Uint8Array(4 * words.length);
  const view = new DataView(bytes.buffer);
  words.forEach((word, i) => view.setUint32(4 * i, word, true));
  return bytes;
}
