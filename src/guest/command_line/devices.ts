// The guest's devices and their helpers: `-device`, `-global`, `-object`, `-tpmdev`, `-usbdevice`.
// They stay as they are, in their order; what names something of the host is checked.

import { quote } from "../../base/errors.ts";
import type { Destination } from "./destination.ts";
import { OBJECT_KEYS, whyNotDevice } from "./device_types.ts";
import type { Pair } from "./keyval.ts";
import { type Option, refuse } from "./options.ts";

/** Properties that name a file which QEMU reads. */
const FILE_PROPERTIES = new Set(["romfile", "frudatafile", "sdrfile"]);
/** Properties that write to the host or take something of it; none belongs to a device allowed. */
const HOST_PROPERTIES = new Set(
  ("pcap rootdir evdev hidraw hostdevice host sysfsdev fsdev file kernel initrd db cert1 cert2 " +
    "cert3 ibdev fd fds vhostfd vhostfds jsonfile filename path cdat").split(" "),
);
/** Properties that may hold a slash and are no path. */
const TEXT_PROPERTIES = new Set(
  "serial model product vendor ver device_id name nqn subnqn uuid osk hba_serial bus label".split(
    " ",
  ),
);
const RANDOM_DEVICES = ["/dev/urandom", "/dev/random", "/dev/hwrng"];

/** `-device`. */
export function checkDevice(option: Option, destination: Destination): Option[] {
  const args = option.args!;
  const driver = args.find("driver");
  const why = driver?.trusted ? null : whyNotDevice(driver?.value ?? "");
  if (why !== null) refuse(option, why);
  for (const pair of [...args.pairs]) {
    const value = checkProperty(option, destination, pair);
    if (value !== pair.value) args.set(pair.key, value);
  }
  return [option];
}

/** `-global`: `driver.property=value`, or the three as key=value. */
export function checkGlobal(option: Option, destination: Destination): Option[] {
  const text = option.value!;
  const short = /^([^.=]{1,63})\.([^=]{1,63})=([^]*)$/.exec(text);
  if (!short) refuse(option, "is not written as driver.property=value");
  const [, driver, key, given] = short as unknown as [string, string, string, string];
  const value = checkProperty(option, destination, { key, value: given, form: "pair" });
  return [{ name: option.name, value: `${driver}.${key}=${value}`, args: null }];
}

function checkProperty(option: Option, destination: Destination, pair: Pair): string {
  const { key, value } = pair;
  if (pair.trusted) return value;
  if (HOST_PROPERTIES.has(key)) {
    refuse(option, `has the property ${quote(key)}, which takes something of the host`);
  }
  if (FILE_PROPERTIES.has(key)) {
    return value === "" ? value : destination.firmware(option, value);
  }
  if (value.includes("/") && !TEXT_PROPERTIES.has(key)) {
    refuse(option, `names a path in its property ${quote(key)}`);
  }
  return value;
}

/** `-object`. */
export function checkObject(option: Option, destination: Destination): Option[] {
  const args = option.args!;
  const type = args.find("qom-type");
  if (type?.trusted) return [option];
  const keys = OBJECT_KEYS.get(type?.value ?? "");
  if (!keys) refuse(option, `has the type ${quote(type?.value ?? "")}, which is not allowed`);
  for (const pair of [...args.pairs]) {
    const { key, value } = pair;
    if (pair.trusted) continue;
    if (key === "mem-path") {
      args.set(key, destination.writable(option, value));
    } else if (key === "filename" && !RANDOM_DEVICES.includes(value)) {
      refuse(option, "reads a file of the host", `allowed: ${RANDOM_DEVICES.join(", ")}`);
    } else if (!isObjectKey(keys, key)) {
      refuse(option, `has the part ${quote(key)}, which is not known here`);
    }
  }
  return [option];
}

function isObjectKey(keys: ReadonlySet<string>, key: string): boolean {
  const [first] = key.split(".") as [string];
  return keys.has(first) || (keys.has("limits") && /^x-(bps|iops)-[a-z-]+$/.test(key));
}

/** `-tpmdev`: the emulator's socket is a character device, which is checked there. */
export function checkTpm(option: Option): Option[] {
  const unknown = option.args!.pairs.find((pair) => !["type", "id", "chardev"].includes(pair.key));
  if (option.args!.get("type") !== "emulator" || unknown) {
    refuse(option, "hands a TPM of the host to the guest");
  }
  return [option];
}

/** `-usbdevice`. */
export function checkUsbDevice(option: Option): Option[] {
  if (!/^(tablet|mouse|keyboard|wacom-tablet|ccid)$/.test(option.value!)) {
    refuse(option, "hands something of the host to the guest");
  }
  return [option];
}
