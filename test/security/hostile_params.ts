// Params documents of a sender that wants more of the receiver's host than a guest needs: what it
// changes in an honest document, and the code of the refusal that it must meet.

import type { Disk, QemuParams } from "../../src/guest/params.ts";

export interface HostileCase {
  name: string;
  /** Codes, any of which is a good refusal. */
  refusals: readonly string[];
  /** May be accepted, without what this matches on QEMU's command line. */
  dropped?: RegExp;
  change(params: QemuParams, places: Places): QemuParams | Uint8Array;
}

export interface Places {
  /** The folder that the receiver allows for disks. */
  disks: string;
  /** A file outside it. */
  outside: string;
  /** A link in the allowed folder that leads out of it. */
  link: string;
  /** An image in the allowed folder whose header names `outside` as its backing file. */
  backed: string;
}

const BAD = ["bad_params"];
const OPTION = [
  "option_refused",
  "unknown_option",
  "option_not_allowed",
  "command_line_refused",
  "bad_command_line",
];

const withArgs = (...args: string[]) => (params: QemuParams): QemuParams => ({
  ...params,
  qemu: { ...params.qemu, argv: [...params.qemu.argv, ...args] },
});

const withArgsAt = (make: (places: Places) => string[]) => (params: QemuParams, places: Places) =>
  withArgs(...make(places))(params);

const withDisk = (make: (places: Places) => Partial<Disk>) =>
(
  params: QemuParams,
  places: Places,
): QemuParams => ({
  ...params,
  disks: params.disks.map((disk, at) => at === 1 ? { ...disk, ...make(places) } : disk),
});

/** An option that QEMU would do harm with. */
function argument(name: string, ...args: string[]): HostileCase {
  return { name, refusals: OPTION, change: withArgs(...args) };
}

export const HOSTILE_CASES: readonly HostileCase[] = [
  argument("a script for the network", "-netdev", "tap,id=n0,script=/bin/true,downscript=no"),
  argument("the default script for the network", "-netdev", "tap,id=n0"),
  argument("a helper program", "-netdev", "bridge,id=n0,br=br0,helper=/bin/true"),
  argument("a program behind a forward", "-netdev", "user,id=n0,guestfwd=tcp:10.0.2.100:1-cmd:id"),
  argument("a port of the host", "-netdev", "user,id=n0,hostfwd=tcp::2222-:22"),
  argument("a pipe", "-chardev", "pipe,id=c,path=/tmp/pipe"),
  argument("a device of the host", "-chardev", "serial,id=c,path=/dev/ttyS0"),
  argument("a connection to the network", "-chardev", "socket,id=c,host=192.0.2.1,port=25"),
  argument("a serial port on the network", "-serial", "tcp:192.0.2.1:25"),
  argument("a plug-in", "-plugin", "/tmp/evil.so"),
  argument("a configuration file", "-readconfig", "/etc/passwd"),
  argument("a folder of the host", "-virtfs", "local,path=/,mount_tag=x,security_model=none"),
  argument("a secret from a file", "-object", "secret,id=s,file=/etc/shadow"),
  argument("a filter that writes a file", "-object", "filter-dump,id=f,netdev=n,file=/tmp/x"),
  argument("a device of the host passed through", "-device", "vfio-pci,host=00:02.0"),
  argument("a kernel from outside", "-kernel", "/etc/shadow"),
  argument("a firmware file by way of ..", "-bios", "/usr/share/seabios/../../../etc/shadow"),
  argument("tables from outside", "-acpitable", "file=/etc/shadow"),
  argument("a file for the guest", "-fw_cfg", "name=opt/x,file=/etc/shadow"),
  argument("memory in a file outside", "-mem-path", "/etc"),
  argument("a record of the machine", "-icount", "shift=1,rr=record,rrfile=/tmp/rr"),
  argument("an open file of another process", "-add-fd", "fd=3,set=1"),
  argument("an option that does not exist", "-nonsense", "x"),
  {
    ...argument("an extra disk", "-drive", "file=/etc/shadow,format=raw,if=none,id=x"),
    dropped: /shadow/,
  },
  {
    ...argument(
      "an extra disk on the network",
      "-blockdev",
      '{"driver":"nbd","node-name":"x","server":{"type":"inet","host":"192.0.2.1","port":"1"}}',
    ),
    dropped: /192/,
  },
  argument("a debugger's port by an alias", "-set", "device.b0.serial=x"),
  {
    name: "an extra device with a file of its own",
    refusals: OPTION,
    change: withArgsAt(({ outside }) => ["-device", `loader,file=${outside},addr=0x1000`]),
  },
  {
    name: "a shared disk outside the folders",
    refusals: ["disk_outside_folders"],
    change: withDisk(({ outside }) => ({ action: "shared", path: outside })),
  },
  {
    name: "a shared disk by way of ..",
    refusals: ["disk_outside_folders"],
    change: withDisk(({ disks }) => ({ action: "shared", path: `${disks}/../outside` })),
  },
  {
    name: "a shared disk by way of a symbolic link",
    refusals: ["disk_outside_folders"],
    change: withDisk(({ link }) => ({ action: "shared", path: link })),
  },
  {
    name: "a shared image whose header leads out of the folders",
    refusals: ["image_names_other_file"],
    change: withDisk(({ backed }) => ({ action: "shared", path: backed, format: "qcow2" })),
  },
  {
    name: "a medium outside the folders",
    refusals: ["disk_outside_folders"],
    change: withDisk(({ outside }) => ({ action: "present", path: outside, read_only: true })),
  },
  {
    name: "a target over a symbolic link",
    refusals: ["disk_outside_folders", "target_exists"],
    change: withDisk(({ link }) => ({ path: `/x/${link.split("/").at(-1)}` })),
  },
  {
    name: "a target called ..",
    refusals: ["disk_outside_folders", "target_exists"],
    change: withDisk(() => ({ path: "/x/.." })),
  },
  {
    name: "a disk format that is none",
    refusals: [...BAD, "disk_not_launched"],
    change: withDisk(() => ({ format: "blkdebug" })),
  },
  {
    name: "a format that reads like an option",
    refusals: [...BAD, "disk_not_launched"],
    change: withDisk(() => ({ format: "-o" })),
  },
  {
    name: "a disk of 8 PiB",
    refusals: [...BAD, "disk_full", "target_not_created", "disk_too_large"],
    change: withDisk(() => ({ virtual_size_bytes: 2 ** 53 - 1 })),
  },
  {
    name: "a machine that does not exist",
    refusals: ["machine_type_unknown"],
    change: (params) => ({ ...params, machine: "none-such" }),
  },
  {
    name: "two disks in one place",
    refusals: ["target_twice", "target_exists", ...OPTION, "disk_unknown"],
    change: (params) => ({
      ...params,
      disks: params.disks.map((disk) => ({ ...disk, path: "/x/one" })),
    }),
  },
  {
    name: "a document of 5 MB",
    refusals: ["document_too_large"],
    change: () => new Uint8Array(5 * 10 ** 6).fill(0x20),
  },
  {
    name: "a document that is not UTF-8",
    refusals: ["bad_document"],
    change: () => Uint8Array.of(0x7b, 0x22, 0xff, 0x22, 0x7d),
  },
  {
    name: "a document nested a million deep",
    refusals: BAD,
    change: () => new TextEncoder().encode("[".repeat(10 ** 6) + "]".repeat(10 ** 6)),
  },
  {
    name: "a document of a million wrong disks",
    refusals: BAD,
    change: () => new TextEncoder().encode(`{"disks":[${"0,".repeat(10 ** 6)}0]}`),
  },
  {
    name: "a hypervisor's name of 3 MB that would move a terminal's cursor",
    refusals: BAD,
    change: (params) =>
      new TextEncoder().encode(
        JSON.stringify({ ...params, hypervisor: "\x1b[2J" + "x".repeat(3 * 10 ** 6) }),
      ),
  },
];
