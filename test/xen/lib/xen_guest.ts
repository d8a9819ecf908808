// The tiny guest as an HVM domain of a Xen host. It checks its memory and disks itself, and says what
// it found on port 0xe9, which Xen shows on its console: nothing in dom0 has to be asked, and the device
// model's QMP sockets stay free for the program under test.

import { makeBootProgram, type TinyGuestOptions } from "../../../src/demo_guest/guest.ts";
import type { XenHost } from "./xen_host.ts";

export interface XenDisk {
  /** In dom0. */
  path: string;
  format: "raw" | "qcow2";
  /** As in xl-disk-configuration(5): hda, hdb, xvda ... The first disk is what the guest boots from. */
  vdev: string;
  /** `backendtype=`; default: what xl chooses. */
  backend?: "qdisk" | "phy";
  /** Default 8 MiB. */
  sizeBytes?: number;
  /** A CD-ROM is never written to. */
  isCdrom?: boolean;
}

export interface XenGuestOptions {
  name: string;
  disks: readonly XenDisk[];
  /** How it behaves, over `QUIET_GUEST`. */
  guest?: TinyGuestOptions;
  /** Default 12: little to send; an emulated host takes long for each MiB. */
  memoryMib?: number;
  /** More lines of its configuration. */
  extra?: readonly string[];
  signal: AbortSignal;
}

/** What the guest has said last. */
export interface GuestStatus {
  /** Of the domain on that host. */
  domid: number;
  /** Turns since it was booted. */
  n: number;
  /** Sectors and pages that did not hold what the guest had written there. */
  bad: number;
  /** Reads and writes of its disks that failed. */
  ioErrors: number;
  /** When it came: ms of `performance.now()`. */
  atMs: number;
}

/** Emulated in an emulated machine, a turn takes about 10 ms of processor time. */
const QUIET_GUEST: TinyGuestOptions = { slots: 8, pagesPerTurn: 16, turnMs: 50, reportEvery: 4 };
/** Within as many turns it has been through all its sectors and pages, and checked them. */
export const GUEST_LAP_TURNS = 20;

const REPORT = /\(d(\d+)\) n=([0-9a-f]{8}) bad=([0-9a-f]{8}) io=([0-9a-f]{8})/;

/** The configuration of such a guest, in xl.cfg(5)'s words. */
export function guestConfig({ name, disks, memoryMib = 12, extra = [] }: XenGuestOptions): string {
  const specs = disks.map((disk) => {
    const kind = disk.isCdrom ? ["access=ro", "devtype=cdrom"] : ["access=rw"];
    const backend = disk.backend ? [`backendtype=${disk.backend}`] : [];
    const words = [`format=${disk.format}`, `vdev=${disk.vdev}`, ...kind, ...backend];
    return `"${[...words, `target=${disk.path}`].join(",")}"`;
  });
  return [
    ...[`name = "${name}"`, 'type = "hvm"', `memory = ${memoryMib}`, "vcpus = 1", 'boot = "c"'],
    ...["xen_platform_pci = 0", 'vga = "none"', "vnc = 0", "usb = 0", 'serial = "pty"'],
    ...['on_poweroff = "destroy"', 'on_reboot = "destroy"', 'on_crash = "preserve"'],
    ...[`disk = [ ${specs.join(", ")} ]`, ...extra, ""],
  ].join("\n");
}

/** Makes the guest's disks and starts it; returns when it has been through a lap. */
export async function startGuest(host: XenHost, options: XenGuestOptions): Promise<GuestStatus> {
  const { name, disks, guest = {}, signal } = options;
  for (const [at, { path, format, sizeBytes = 8 * 2 ** 20 }] of disks.entries()) {
    await host.check(`qemu-img create -q -f ${format} '${path}' ${sizeBytes}`, { signal });
    if (at > 0) continue;
    const boot = `${path}.boot`;
    await host.writeFile(boot, makeBootProgram({ ...QUIET_GUEST, ...guest }), { signal });
    const convert = `qemu-img convert -n -f raw -O ${format} '${boot}' '${path}'; rm '${boot}'`;
    await host.check(convert, { signal });
  }
  const config = `/root/${name}.cfg`;
  const content = new TextEncoder().encode(guestConfig(options));
  await host.writeFile(config, content, { signal });
  const from = host.console.lines.length;
  await host.check(`xl create -q '${config}'`, { signal });
  return await waitForCountAbove(host, { count: GUEST_LAP_TURNS, from, signal });
}

/** What the guest of that host, of any domain there, has said last; null when none has said anything. */
export function readGuestStatus(host: XenHost): GuestStatus | null {
  const line = host.console.lines.findLast(({ text }) => REPORT.test(text));
  return line ? parseReport(line) : null;
}

/** Waits for a report with a count above `count`, in the console's lines from number `from` on. */
export async function waitForCountAbove(
  host: XenHost,
  options: { count: number; from?: number; signal: AbortSignal },
): Promise<GuestStatus> {
  const { count, from = 0, signal } = options;
  const isLater = (line: { text: string; atMs: number }) => (parseReport(line)?.n ?? 0) > count;
  const line = await host.console.waitFor(isLater, { from, signal });
  return parseReport(line)!;
}

export interface Pause {
  /** From the last report on one host to the first on the other: at most two turns too long. */
  pauseMs: number;
  before: GuestStatus;
  after: GuestStatus;
}

/**
 * How long a guest that has moved from one host to the other stood still. It must report every turn
 * (`reportEvery: 1`).
 * @param options.since the number of the first line on the other host's console that can be its: what
 *   came before it moved is none of it
 */
export async function measurePause(
  { from, to, since = 0, signal }: {
    from: XenHost;
    to: XenHost;
    since?: number;
    signal: AbortSignal;
  },
): Promise<Pause> {
  const before = readGuestStatus(from);
  if (!before) throw new Error(`No guest has reported anything on host ${from.name}`);
  const after = await waitForCountAbove(to, { count: before.n, from: since, signal });
  return { pauseMs: after.atMs - before.atMs, before, after };
}

/** Ends a domain as a power cut would. */
export async function destroyGuest(
  host: XenHost,
  { name, signal }: { name: string; signal: AbortSignal },
): Promise<void> {
  await host.check(`xl destroy '${name}'`, { signal });
}

function parseReport({ text, atMs }: { text: string; atMs: number }): GuestStatus | null {
  const match = text.match(REPORT);
  if (!match) return null;
  const [n, bad, ioErrors] = match.slice(2).map((word) => parseInt(word, 16));
  return { domid: Number(match[1]), n: n!, bad: bad!, ioErrors: ioErrors!, atMs };
}
