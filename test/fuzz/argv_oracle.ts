// What must hold of every command line that a receiver would start, whatever the peer sent: written a
// second time, from docs/launch.md and QEMU's documentation, without the code that it judges.

import { type QemuPair, readLeaves, readPairs } from "./qemu_syntax.ts";
import { holds } from "./target.ts";

export interface Bounds {
  /** Where files may be read, and where written. */
  readFolders: readonly string[];
  writeFolders: readonly string[];
  bridges: readonly string[];
  allowVnc: boolean;
  /** Images that must be opened read-only. */
  readOnlyImages: ReadonlySet<string>;
  /** Follows links and dots. */
  realPath: (path: string) => string | null;
  /** What the receiver adds at the end. */
  own: readonly string[];
}

const words = (text: string) => new Set(text.split(" "));
const FLAGS = words(
  "enable-kvm no-kvm usb no-acpi no-hpet win2k-hack no-fd-bootchk nodefaults no-user-config " +
    "only-migratable no-reboot no-shutdown mem-prealloc singlestep one-insn-per-tb enable-fips " +
    "enable-sync-profile async-teardown",
);
/** Texts and numbers in which no key names a file. */
const TEXTS = words(
  "cpu smp m numa uuid name rtc vga overcommit compat msg action watchdog watchdog-action tb-size " +
    "realtime seed echr append k usbdevice accel icount audiodev audio sandbox run-with",
);
const FORMATS = words("raw qcow2 qcow qed vdi vmdk vpc vhdx parallels");
const NODE_DRIVERS = new Set([...FORMATS, ..."throttle copy-on-read file host_device".split(" ")]);
const SHARED_PROTOCOLS = words("host_cdrom");
const CHARDEVS = words("null ringbuf memory vc msmouse wctablet pty socket file");
const CHARDEV_KEYS = /^(backend|id|mux|logappend|append|size|width|height|cols|rows|server|wait)$/;
const NETDEVS = words("user tap bridge hubport nic none");
const NET_DANGERS =
  /^(helper|smb|smbserver|tftp|guestfwd|hostfwd|fds?|vhostfds?|path|listen|connect|mcast|udp|local.*|remote.*|server)(\.|$)/;
const HOST_DEVICES =
  /^(vfio|x-pci-proxy|kvm-pci|pci-assign|usb-host|usb-redir|u2f|ccid-card|canokey|scsi-block|scsi-generic|virtio-input-host|vhost|virtio-9p|usb-mtp|ivshmem|pvrdma|virtio-crypto|loader|guest-loader)/;
const OBJECTS =
  /^(memory-backend-(ram|memfd|file)|iothread|main-loop|thread-context|throttle-group|rng-builtin|rng-random|can-bus)$/;
/** What says nothing about where an image lies; with `file.` before it as well. */
const DRIVE_KEYS =
  /^(file|format|id|if|index|bus|unit|media|[wr]error|cache|cache\.(writeback|direct|no-flush)|aio|aio-max-batch|copy-on-read|readonly|read-only|auto-read-only|force-share|group|stats-account-\w+|snapshot|throttling\..*|(iops|bps).*|node-name|detect-zeroes|discard|locking|lazy-refcounts|pass-discard-.*|discard-no-unref|.*cache-(entry-)?size|cache-clean-interval|overlap-check(\..*)?|size|offset)$/;
/** Device properties that are the guest's text. */
const DEVICE_TEXTS = words(
  "serial model product vendor ver device_id name nqn subnqn uuid osk hba_serial bus label",
);
const RANDOM = words("/dev/urandom /dev/random /dev/hwrng");

/** Throws `Broken` when `argv` could do what the receiver did not allow. */
export function checkArgv(argv: readonly string[], bounds: Bounds): void {
  const { own } = bounds;
  const tail = argv.slice(argv.length - own.length);
  holds(own.every((word, at) => tail[at] === word), () => `ends with ${tail.join(" ")}`);
  const body = argv.slice(0, argv.length - own.length);
  for (let at = 0; at < body.length; at++) {
    const word = body[at]!;
    holds(word.startsWith("-") && !word.startsWith("--"), () => `'${word}' is no option`);
    const name = word.slice(1);
    if (FLAGS.has(name)) continue;
    const value = body[++at];
    holds(value !== undefined && !value.includes("\0"), () => `'${word}' without a value`);
    new OptionCheck(name, value!, bounds).run();
  }
}

class OptionCheck {
  readonly #name: string;
  readonly #value: string;
  readonly #bounds: Bounds;

  constructor(name: string, value: string, bounds: Bounds) {
    this.#name = name;
    this.#value = value;
    this.#bounds = bounds;
  }

  run(): void {
    const name = this.#name;
    if (TEXTS.has(name)) return;
    switch (name) {
      case "machine":
        return this.#machine();
      case "boot":
        return this.#files(readPairs(this.#value, "order"), ["splash"]);
      case "smbios":
        return this.#files(readPairs(this.#value), ["file", "path"]);
      case "fw_cfg":
        return this.#files(readPairs(this.#value, "name"), ["file"]);
      case "acpitable":
        for (const { key, value } of readPairs(this.#value)) {
          if (key === "file" || key === "data") value.split(":").forEach((p) => this.#readable(p));
        }
        return;
      case "bios":
      case "option-rom":
        return this.#firmware(this.#value);
      case "kernel":
      case "initrd":
      case "dtb":
      case "shim":
      case "L":
        return this.#readable(this.#value);
      case "mem-path":
        return this.#writable(this.#value);
      case "global":
        return this.#global();
      case "device":
        return this.#device();
      case "object":
        return this.#object();
      case "tpmdev":
        this.#demand(/^(type=)?emulator(,|$)/.test(this.#value), "a TPM of the host");
        return;
      case "drive":
        return this.#drive();
      case "blockdev":
        return this.#blockdev();
      case "chardev":
        return this.#chardev();
      case "serial":
      case "parallel":
      case "debugcon":
        return this.#shorthand();
      case "netdev":
      case "nic":
      case "net":
        return this.#network();
      case "vnc":
        return this.#vnc();
      default:
        this.#demand(false, "an option that no destination has");
    }
  }

  #demand(condition: boolean, what: string): void {
    holds(condition, () => `-${this.#name} ${this.#value}: ${what}`);
  }

  /** As QEMU reads it: JSON only where QEMU takes JSON. */
  #pairs(impliedKey?: string): QemuPair[] {
    return this.#value.startsWith("{")
      ? readLeaves(this.#value)
      : readPairs(this.#value, impliedKey);
  }

  #isInside(path: string, folders: readonly string[]): boolean {
    if (!path.startsWith("/")) return false;
    // What is not there yet is judged by the folder that is.
    let known = path;
    while (known !== "" && this.#bounds.realPath(known) === null) {
      known = known.slice(0, known.lastIndexOf("/"));
    }
    const rest = path.slice(known.length);
    if (rest.split("/").includes("..")) return false;
    const real = (this.#bounds.realPath(known || "/") ?? "") + rest;
    return folders.some((folder) => real === folder || real.startsWith(folder + "/"));
  }

  #writable(path: string): void {
    this.#demand(this.#isInside(path, this.#bounds.writeFolders), `writes '${path}'`);
  }

  #readable(path: string): void {
    const { readFolders, writeFolders } = this.#bounds;
    this.#demand(this.#isInside(path, [...readFolders, ...writeFolders]), `reads '${path}'`);
  }

  #firmware(name: string): void {
    if (name.includes("/")) this.#readable(name);
  }

  #files(pairs: readonly QemuPair[], keys: readonly string[]): void {
    for (const { key, value } of pairs) {
      if (keys.includes(key) && key === "splash") this.#firmware(value);
      else if (keys.includes(key)) this.#readable(value);
    }
  }

  #machine(): void {
    for (const { key, value } of readPairs(this.#value, "type")) {
      if (key === "type") this.#demand(/^(pc-|isapc$|microvm$)/.test(value), "another machine");
      else if (/^(kernel|initrd|dtb|shim)$/.test(key)) this.#readable(value);
      else if (/^(firmware|boot\.splash)$/.test(key)) this.#firmware(value);
      this.#demand(!/dumpdtb|memory-encryption|sgx|confidential/.test(key), `has '${key}'`);
    }
  }

  #global(): void {
    const [, key = "", value = ""] = /^[^.=]*\.([^=]*)=([^]*)$/.exec(this.#value) ?? [];
    this.#properties([{ key, value }]);
  }

  #device(): void {
    const pairs = this.#pairs("driver");
    const driver = pairs.findLast(({ key }) => key === "driver")?.value ?? "";
    this.#demand(driver !== "" && !HOST_DEVICES.test(driver), "a device of the host");
    this.#properties(pairs.filter(({ key }) => key !== "driver"));
  }

  #properties(pairs: readonly QemuPair[]): void {
    for (const { key, value } of pairs) {
      const isFile = /^(romfile|frudatafile|sdrfile)$/.test(key);
      if (isFile && this.#name === "device") this.#firmware(value);
      if (isFile || DEVICE_TEXTS.has(key)) continue;
      this.#demand(!value.includes("/"), `a path in '${key}'`);
      this.#demand(
        !/^(pcap|rootdir|evdev|hidraw|hostdevice|host|sysfsdev|fsdev|v?h?o?s?t?fds?|filename|path)$/
          .test(key),
        `has '${key}'`,
      );
    }
  }

  #object(): void {
    const pairs = this.#pairs("qom-type");
    const type = pairs.findLast(({ key }) => key === "qom-type")?.value ?? "";
    this.#demand(OBJECTS.test(type), `an object '${type}'`);
    for (const { key, value } of pairs) {
      if (key === "mem-path") this.#writable(value);
      else if (key === "filename") this.#demand(RANDOM.has(value), `reads '${value}'`);
      else if (key !== "x-use-canonical-path-for-ramblock-id") {
        // A dotted key of something that has no parts is an error of QEMU's.
        this.#demand(!/^[^.]*(file|path|url|sock|cred|secret)[^.]*$/.test(key), `has '${key}'`);
      }
    }
  }

  #drive(): void {
    const pairs = readPairs(this.#value);
    const last = (name: string) => pairs.findLast(({ key }) => key === name)?.value;
    const file = last("file");
    for (const { key, value } of pairs) {
      this.#demand(DRIVE_KEYS.test(key.replace(/^file\./, "")), `has '${key}'`);
      if (key === "snapshot") this.#demand(value === "off", "a temporary file");
    }
    if (file === undefined) return;
    this.#demand(FORMATS.has(last("format") ?? ""), "guesses the format, or has another");
    this.#image(file, ["readonly", "read-only"].some((key) => last(key) === "on"));
  }

  #image(path: string, isReadOnly: boolean): void {
    if (isReadOnly) this.#readable(path);
    else this.#writable(path);
    const must = this.#bounds.readOnlyImages.has(path);
    this.#demand(!must || isReadOnly, `writes to '${path}', which is read-only`);
  }

  #blockdev(): void {
    const pairs = this.#pairs("driver");
    const values = new Map(pairs.map(({ key, value }) => [key, value]));
    for (const [key, value] of values) { // of several, the last counts
      const name = key.slice(key.lastIndexOf(".") + 1);
      const layer = key.slice(0, key.length - name.length);
      if (name === "driver") {
        const known = NODE_DRIVERS.has(value) || SHARED_PROTOCOLS.has(value);
        this.#demand(known, `a driver '${value}'`);
      } else if (name === "filename") {
        const above = layer.replace(/file\.$/, "");
        const isReadOnly = [layer, above].some((at) => values.get(`${at}read-only`) === "on");
        this.#image(value, isReadOnly);
      } else {
        const own = key.replace(/^((file|backing)\.)*/, "");
        const isKnown = DRIVE_KEYS.test(own) || /^(backing|throttle-group)$/.test(own);
        this.#demand(isKnown, `has '${key}'`);
      }
    }
  }

  #chardev(): void {
    const pairs = readPairs(this.#value, "backend");
    const backend = pairs.findLast(({ key }) => key === "backend")?.value ?? "";
    this.#demand(CHARDEVS.has(backend), `a character device '${backend}'`);
    for (const { key, value } of pairs) {
      if (key === "path" || key === "logfile") this.#writable(value);
      else this.#demand(CHARDEV_KEYS.test(key), `has '${key}'`);
    }
    if (backend !== "socket") return;
    const isOn = (name: string) =>
      /^(on|yes|true|y)$/.test(pairs.findLast(({ key }) => key === name)?.value ?? "off");
    this.#demand(isOn("server"), "connects to the host");
  }

  #shorthand(): void {
    const value = this.#value;
    if (value.startsWith("file:")) return this.#writable(value.slice(5));
    if (value.startsWith("unix:")) {
      const pairs = readPairs(value.slice(5), "path");
      for (const pair of pairs) if (pair.key === "path") this.#writable(pair.value);
      this.#demand(pairs.some(({ key }) => key === "server"), "connects to the host");
      return;
    }
    this.#demand(
      /^(none|null|pty|msmouse|wctablet|vc(:.*)?|chardev:.*)$/.test(value),
      "a way to the host",
    );
  }

  #network(): void {
    const pairs = this.#pairs("type");
    const last = (name: string) => pairs.findLast(({ key }) => key === name)?.value;
    const type = last("type") ?? "";
    this.#demand(NETDEVS.has(type), `a backend '${type}'`);
    for (const { key, value } of pairs) {
      this.#demand(!NET_DANGERS.test(key), `has '${key}'`);
      if (/^(down)?script$/.test(key)) this.#demand(value === "no", "runs a program");
      if (key === "br") this.#demand(this.#bounds.bridges.includes(value), `bridge '${value}'`);
    }
    if (type === "tap") {
      this.#demand(last("script") === "no" && last("downscript") === "no", "runs QEMU's default");
    }
    if (type === "bridge") {
      this.#demand(this.#bounds.bridges.includes(last("br") ?? "br0"), "another bridge");
    }
  }

  #vnc(): void {
    const pairs = readPairs(this.#value, "vnc");
    const display = pairs.findLast(({ key }) => key === "vnc")?.value ?? "";
    for (const { key } of pairs) this.#demand(!/websocket|tls|sasl|password-/.test(key), `${key}`);
    if (display.startsWith("unix:")) return this.#writable(display.slice(5));
    this.#demand(this.#bounds.allowVnc, "opens a port");
  }
}
