// The machine itself: `-machine` with the versioned type that the guest runs on, accelerators, and the
// files that firmware and boot options name.

import { quote } from "../../base/errors.ts";
import type { Destination } from "./destination.ts";
import { fromArgs, type Option, refuse } from "./options.ts";

/** Machine types that QEMU's x86 emulators migrate, with distributions' own versions. */
const MACHINE_TYPE = /^(pc-[\w.+-]+|isapc|microvm)$/;
const MACHINE_KEYS = new Set(
  ("type accel acpi append aux-ram-share boot bus-lock-ratelimit default-bus-bypass-iommu " +
    "dump-guest-core enforce-config-section fd-bootchk graphics hmat hpet i8042 kernel-irqchip " +
    "kvm-shadow-mem max-fw-size max-ram-below-4g mem-merge memory " +
    "memory-backend nvdimm nvdimm-persistence pflash0 pflash1 pic pit sata smbios-entry-point-type " +
    "smbus smm smp suppress-vmdesc usb vmport x-oem-id x-oem-table-id x-south-bridge " +
    "auto-kernel-cmdline ioapic2 isa-serial pcie rtc x-option-roms").split(" "),
);
const MACHINE_FILES = new Set(["kernel", "initrd", "dtb", "shim"]);
const ACCELERATORS = new Set(["tcg", "kvm", "hvf", "hax", "whpx", "nvmm"]);
const ACCEL_KEYS = new Set(
  ("accel thread kernel-irqchip kvm-shadow-mem split-wx tb-size one-insn-per-tb dirty-ring-size " +
    "notify-vmexit notify-window eager-split-size").split(" "),
);

/** @throws AgentError `machine_refused` for a type that is never launched here */
export function checkMachineType(destination: Destination): void {
  const { machine, arch } = destination.params;
  if (MACHINE_TYPE.test(machine) && /^(x86_64|i386)$/.test(arch)) return;
  refuse(
    { name: "machine", value: machine, args: null },
    `is not a machine that is started here (architecture ${quote(arch)})`,
  );
}

/** `-machine`, `-M`. */
export function rewriteMachine(option: Option, destination: Destination): Option[] {
  const args = option.args!;
  if (args.get("type") !== undefined) args.set("type", destination.params.machine);
  for (const { key: given, value } of [...args.pairs]) {
    const key = given.replaceAll("_", "-"); // QEMU takes both for a machine's properties
    if (key === "accel") checkAccelerators(option, value);
    else if (key === "firmware") args.set(given, destination.firmware(option, value));
    else if (MACHINE_FILES.has(key)) args.set(given, destination.readable(option, value));
    else if (!MACHINE_KEYS.has(key.split(".")[0]!)) {
      refuse(option, `has the part ${quote(given)}, which is not allowed`);
    } else if (key === "boot.splash") args.set(given, destination.firmware(option, value));
  }
  return [fromArgs("machine", args)];
}

/** `-accel`. */
export function checkAccel(option: Option): Option[] {
  for (const { key, value } of option.args!.pairs) {
    if (key === "accel") checkAccelerators(option, value);
    else if (!ACCEL_KEYS.has(key)) refuse(option, `has the part ${quote(key)}, not allowed here`);
  }
  return [option];
}

function checkAccelerators(option: Option, list: string): void {
  const unknown = list.split(":").find((name) => !ACCELERATORS.has(name));
  if (unknown !== undefined) refuse(option, `names the accelerator ${quote(unknown)}`);
}

/** `-bios`, `-option-rom`: QEMU looks among its own data for a name without a slash. */
export function checkFirmware(option: Option, destination: Destination): Option[] {
  return [{ ...option, value: destination.firmware(option, option.value!) }];
}

/** `-kernel` and the like, and `-L`. */
export function checkReadable(option: Option, destination: Destination): Option[] {
  return [{ ...option, value: destination.readable(option, option.value!) }];
}

/** `-mem-path`. */
export function checkMemoryPath(option: Option, destination: Destination): Option[] {
  return [{ ...option, value: destination.writable(option, option.value!) }];
}

/** `-boot`. */
export function checkBoot(option: Option, destination: Destination): Option[] {
  const splash = option.args!.find("splash");
  if (splash) option.args!.set("splash", destination.firmware(option, splash.value));
  const keys = ["order", "once", "menu", "splash", "splash-time", "reboot-timeout", "strict"];
  return onlyKeys(option, keys);
}

/** `-smbios`: text for the guest's tables, or a file's. */
export function checkSmbios(option: Option, destination: Destination): Option[] {
  return mapFiles(option, { keys: ["file", "path"], destination });
}

/** `-acpitable`: `file` and `data` are lists of files. */
export function checkAcpiTable(option: Option, destination: Destination): Option[] {
  return mapFiles(option, { keys: ["file", "data"], destination, separator: ":" });
}

/** `-fw_cfg`. */
export function checkFwCfg(option: Option, destination: Destination): Option[] {
  return mapFiles(onlyKeys(option, ["name", "string", "file"])[0]!, {
    keys: ["file"],
    destination,
  });
}

/** `-icount`. */
export function checkIcount(option: Option): Option[] {
  return onlyKeys(option, ["shift", "align", "sleep"]);
}

/** `-k`. */
export function checkKeymap(option: Option): Option[] {
  if (!/^[a-z]+(-[a-z]+)*$/i.test(option.value!)) refuse(option, "is not the name of a keymap");
  return [option];
}

/** `option` unless it has a part other than `keys`. */
export function onlyKeys(option: Option, keys: readonly string[]): Option[] {
  const unknown = option.args!.pairs.find(({ key }) => !keys.includes(key));
  if (unknown) refuse(option, `has the part ${quote(unknown.key)}, which is not allowed`);
  return [option];
}

function mapFiles(
  option: Option,
  { keys, destination, separator }: {
    keys: readonly string[];
    destination: Destination;
    separator?: string;
  },
): Option[] {
  const args = option.args!;
  for (const { key, value } of [...args.pairs]) {
    if (!keys.includes(key)) continue;
    const paths = separator === undefined ? [value] : value.split(separator);
    args.set(key, paths.map((path) => destination.readable(option, path)).join(separator));
  }
  return [option];
}
