// The configuration of the domain at the destination, made from the source's. It comes from the other
// host, and libxl does as root what it says: programs, scripts, files, arguments for QEMU. So only what
// is known to name nothing of this host is taken over; the disks are this receiver's own. Everything
// else is refused by name, never dropped in silence.
// Specification: libxl's `domain_config`; docs/xen.md, "The configuration".

import { type AgentError, quote } from "../base/errors.ts";
import { refusal } from "../guest/image_files.ts";
import type { TargetDisk } from "../guest/destination.ts";
import { isRecord } from "./xl.ts";

type Config = Record<string, unknown>;
type Check = (value: unknown) => boolean;

const MAX_DEPTH = 8;
const DEFAULT_NIC_SCRIPT = /^(\/etc\/xen\/scripts\/)?vif-bridge$/;
const MAX_NAME_CHARS = 200;
/** What libxl takes for a network that names none. */
const DEFAULT_BRIDGE = "xenbr0";
const LOCAL_HOST = "127.0.0.1";

/** Values that neither name a file nor carry a comma, with which QEMU's options go on. */
const isWord: Check = (value) =>
  typeof value === "boolean" || (typeof value === "number" && Number.isFinite(value)) ||
  (typeof value === "string" && /^[A-Za-z0-9][A-Za-z0-9_.+-]{0,127}$/.test(value));
const isEmpty: Check = (value) =>
  value === null || value === "" || value === "False" || value === false ||
  (Array.isArray(value) && value.length === 0) ||
  (isRecord(value) && Object.values(value).every((inner) => isEmpty(inner)));
const isAddress: Check = (value) =>
  typeof value === "string" && /^[0-9a-fA-F.: /]{1,200}$/.test(value) && !value.startsWith("/");
const isMac: Check = (value) =>
  typeof value === "string" && /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i.test(value);
const isPassword: Check = (value) => typeof value === "string" && /^[^\p{Cc}]{1,64}$/u.test(value);
const oneOf = (...words: string[]): Check => (value) =>
  typeof value === "string" && words.includes(value);

/** Words in lists and tables of words: bitmaps, scheduler settings, CPUID policies. */
function isWords(value: unknown, depth = 0): boolean {
  if (depth > MAX_DEPTH) return false;
  if (isWord(value) || isEmpty(value)) return true;
  if (Array.isArray(value)) return value.every((item) => isWords(item, depth + 1));
  return isRecord(value) &&
    Object.entries(value).every(([key, item]) => isWord(key) && isWords(item, depth + 1));
}

const words = (...keys: string[]): Record<string, Check> =>
  Object.fromEntries(keys.map((key) => [key, (value: unknown) => isWords(value)]));

const VNC = {
  ...words("enable", "display", "findunused"),
  listen: isAddress,
  passwd: isPassword,
};
const SPICE = {
  ...words("enable", "port", "tls_port", "disable_ticketing", "agent_mouse", "vdagent"),
  ...words("clipboard_sharing", "usbredirection", "image_compression", "streaming_video"),
  host: isAddress,
  passwd: isPassword,
};

const CREATE: Record<string, Check> = {
  ...words("hap", "oos", "uuid", "domid", "run_hotplug_scripts", "poolid", "pool_name", "ssidref"),
  type: oneOf("hvm"),
  name: (value) => typeof value === "string" && isDomainName(value),
  passthrough: oneOf("default", "disabled", "unknown"),
};

const BUILD: Record<string, Check> = {
  ...words("max_vcpus", "avail_vcpus", "cpumap", "nodemap", "vcpu_hard_affinity"),
  ...words("vcpu_soft_affinity", "numa_placement", "tsc_mode", "max_memkb", "target_memkb"),
  ...words("video_memkb", "shadow_memkb", "iommu_memkb", "rtc_timeoffset", "exec_ssidref"),
  ...words("localtime", "disable_migrate", "cpuid", "blkdev_start", "vnuma_nodes"),
  ...words("max_grant_frames", "max_maptrack_frames", "max_grant_version", "sched_params"),
  ...words("claim_mode", "event_channels", "acpi", "timer_mode", "nested_hvm", "apic"),
  ...words("arch_arm", "arch_x86", "altp2m", "vmtrace_buf_kb", "vpmu", "tee"),
  device_model_version: oneOf("qemu_xen"),
};

const HVM: Record<string, Check> = {
  ...words("pae", "apic", "acpi", "acpi_s3", "acpi_s4", "acpi_laptop_slate", "nx", "viridian"),
  ...words("viridian_enable", "viridian_disable", "hpet", "vpt_align", "mmio_hole_memkb"),
  ...words("timer_mode", "nested_hvm", "altp2m", "timeoffset", "hdtype", "nographic", "vga"),
  ...words("keymap", "sdl", "gfx_passthru_kind", "boot", "usb", "usbversion", "vkb_device"),
  ...words("soundhw", "xen_platform_pci", "vendor_device", "ms_vm_genid", "rdm"),
  ...words("rdm_mem_boundary_memkb", "mca_caps"),
  bios: oneOf("seabios", "rombios", "ovmf"),
  serial: oneOf("pty", "null", "none"),
  serial_list: (value) => Array.isArray(value) && value.every(oneOf("pty", "null", "none")),
  usbdevice: oneOf("tablet", "mouse", "keyboard"),
  usbdevice_list: (value) =>
    Array.isArray(value) && value.every(oneOf("tablet", "mouse", "keyboard")),
  vnc: (value) => hasOnly(value, VNC),
  spice: (value) => hasOnly(value, SPICE),
};

const NIC: Record<string, Check> = {
  ...words("devid", "mtu", "model", "bridge", "ifname", "nictype", "rate_bytes_per_interval"),
  ...words("rate_interval_usecs", "gatewaydev", "trusted"),
  mac: isMac,
  ip: isAddress,
  script: (value) => typeof value === "string" && DEFAULT_NIC_SCRIPT.test(value),
};

/** Taken over from a disk; its image and how it is opened are the receiver's. */
const DISK: Record<string, Check> = {
  ...words("vdev", "backend", "format", "removable", "readwrite", "is_cdrom", "direct_io_safe"),
  ...words("discard_enable", "specification", "transport", "trusted", "irq", "base"),
  pdev_path: () => true,
  script: (value) => typeof value === "string" && /^(\/etc\/xen\/scripts\/)?block$/.test(value),
};

const VFB: Record<string, Check> = {
  ...words("devid", "sdl", "keymap"),
  vnc: (value) => hasOnly(value, VNC),
};

const DOMAIN: Record<string, Check> = {
  ...words("vkbs", "usbctrls", "channels"),
  ...words("on_poweroff", "on_reboot", "on_watchdog", "on_crash", "on_soft_reset"),
};

/** A name that xl takes for a name, and that leaves room for what xl puts behind it. */
export function isDomainName(name: string): boolean {
  return name.length <= MAX_NAME_CHARS && /^[A-Za-z0-9_][A-Za-z0-9_.+:-]*$/.test(name) &&
    !/^\d+$/.test(name) && !/--(incoming|migratedaway)$/.test(name);
}

/**
 * The configuration for `xl migrate-receive`, as JSON.
 * @throws AgentError `config_refused` (kind refused) naming what this receiver does not take over
 */
export function buildConfig(
  source: Config,
  options: { name: string; targets: readonly TargetDisk[]; openDisplays: boolean },
): string {
  const { c_info: create, b_info: build, disks, nics, vfbs, ...rest } = source;
  if (!isRecord(create) || !isRecord(build)) throw refused("c_info", create);
  const { "type.hvm": hvm, ...common } = build;
  if (!isRecord(hvm)) throw refused("b_info.type.hvm", hvm);
  if (create.name !== options.name) throw refused("c_info.name", create.name);
  const config = {
    ...take(rest, DOMAIN, ""),
    c_info: take(create, CREATE, "c_info."),
    b_info: {
      ...take(common, BUILD, "b_info."),
      "type.hvm": placeDisplays(take(hvm, HVM, "b_info.type.hvm."), options),
    },
    disks: placeDisks(listOf(disks, "disks"), options.targets),
    nics: listOf(nics, "nics").map((nic, at) => take(nic, NIC, `nics[${at}].`)),
    vfbs: listOf(vfbs, "vfbs").map((vfb, at) =>
      placeDisplays(take(vfb, VFB, `vfbs[${at}].`), options)
    ),
  };
  return JSON.stringify(config);
}

/** The bridges that the domain's networks need here. */
export function listBridges(source: Config): string[] {
  return listOf(source.nics, "nics")
    .map(({ bridge }) => typeof bridge === "string" && bridge !== "" ? bridge : DEFAULT_BRIDGE);
}

/** Where a display listens: on this host alone, unless it may be reached from others. */
function placeDisplays(part: Config, { openDisplays }: { openDisplays: boolean }): Config {
  if (openDisplays) return part;
  const { vnc, spice } = part;
  return {
    ...part,
    ...(isRecord(vnc) ? { vnc: { ...vnc, listen: LOCAL_HOST } } : {}),
    ...(isRecord(spice) ? { spice: { ...spice, host: LOCAL_HOST } } : {}),
  };
}

function placeDisks(disks: Config[], targets: readonly TargetDisk[]): Config[] {
  return disks.map((disk, at) => {
    const kept = take(disk, DISK, `disks[${at}].`);
    const target = targets.find((candidate) => candidate.disk.name === disk.vdev);
    if (!target) throw refused(`disks[${at}].vdev`, disk.vdev);
    // How a disk is written here follows from what was checked of it, not from the other host.
    const readOnly = target.disk.read_only || target.disk.action === "present";
    if (readOnly && Number(kept.readwrite ?? 0) !== 0) throw refused(`disks[${at}].readwrite`, 1);
    const { script: _, ...plain } = kept;
    if (target.path === null) return { ...plain, pdev_path: "", format: "empty" };
    return { ...plain, pdev_path: target.path, format: target.disk.format };
  });
}

function take(source: Config, known: Record<string, Check>, where: string): Config {
  const taken: Config = {};
  for (const [key, value] of Object.entries(source)) {
    if (Object.hasOwn(known, key) && known[key]!(value)) taken[key] = value;
    else if (!isEmpty(value)) throw refused(where + key, value);
  }
  return taken;
}

function hasOnly(value: unknown, known: Record<string, Check>): boolean {
  return isRecord(value) &&
    Object.entries(value).every(([key, inner]) =>
      isEmpty(inner) || (Object.hasOwn(known, key) && known[key]!(inner))
    );
}

function listOf(value: unknown, where: string): Config[] {
  if (value === undefined) return [];
  if (Array.isArray(value) && value.every(isRecord)) return value;
  throw refused(where, value);
}

function refused(where: string, value: unknown): AgentError {
  return refusal(
    "config_refused",
    `The domain's configuration has ${quote(where)} = ${
      quote(JSON.stringify(value) ?? "nothing")
    }, ` +
      `which this receiver does not take over`,
    "take it out of the domain's configuration (and start the domain anew) before it moves",
  );
}
