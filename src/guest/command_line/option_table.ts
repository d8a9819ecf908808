// Every option of QEMU's x86 system emulators, 5.2 to 10.0, and what becomes of it on another host.
// An option that is not here is refused. docs/launch.md shows this table; a test holds both together.

/**
 * What happens to an option:
 * - `keep`: says nothing about the host; passed on as it is
 * - `check`: passed on when every part of it is understood and allowed here
 * - `replace`: written anew for this host
 * - `drop`: left out; the guest cannot tell
 * - `refuse`: the guest cannot be started here from its command line
 */
export type Treatment = "keep" | "check" | "replace" | "drop" | "refuse";

export interface OptionRow {
  readonly name: string;
  readonly takesValue: boolean;
  readonly treatment: Treatment;
  readonly why: string;
}

type Row = readonly [names: string, takesValue: 0 | 1, treatment: Treatment, why: string];

const MACHINE: readonly Row[] = [
  ["machine M", 1, "replace", "the type with its version, never an alias; paths are checked"],
  ["accel", 1, "check", "the accelerators of QEMU; none that needs a host file"],
  ["enable-kvm no-kvm", 0, "keep", "accelerator"],
  ["cpu smp m numa uuid name rtc vga overcommit compat msg action", 1, "keep", "machine"],
  ["usb no-acpi no-hpet win2k-hack no-fd-bootchk nodefaults no-user-config", 0, "keep", "machine"],
  ["only-migratable no-reboot no-shutdown mem-prealloc", 0, "keep", "machine"],
  [
    "singlestep one-insn-per-tb enable-fips enable-sync-profile async-teardown",
    0,
    "keep",
    "process",
  ],
  ["watchdog watchdog-action tb-size realtime seed echr append", 1, "keep", "text or number"],
  ["global", 1, "check", "a property that names a host path is checked"],
  ["boot", 1, "check", "the splash picture is a path"],
  ["k", 1, "check", "a keymap's name, never a path"],
  ["icount", 1, "check", "record and replay read and write host files"],
  ["bios option-rom", 1, "check", "a name that QEMU finds itself, or a readable path"],
  ["L", 1, "check", "a readable folder"],
  ["kernel initrd dtb shim", 1, "check", "a readable path"],
  ["smbios acpitable fw_cfg", 1, "check", "files are readable paths"],
  ["mem-path", 1, "check", "a writable path"],
  ["device", 1, "check", "emulated devices only; paths are checked"],
  ["object", 1, "check", "memory, threads, throttling, randomness; no secrets, no filters"],
  ["usbdevice", 1, "check", "emulated input devices only"],
  ["tpmdev", 1, "check", "an emulator whose socket an override names"],
];
const DISKS: readonly Row[] = [
  ["drive blockdev", 1, "replace", "this host's image, with the medium that is in the drive now"],
  ["hda hdb hdc hdd cdrom fda fdb pflash sd mtdblock", 1, "replace", "as -drive"],
  ["snapshot", 0, "refuse", "what the guest wrote is in a temporary file that no other host has"],
  ["iscsi", 1, "refuse", "names the source's initiator and its password"],
  ["fsdev virtfs", 1, "refuse", "shares a folder of the source host; QEMU cannot migrate it"],
];
const CONNECTIONS: readonly Row[] = [
  ["chardev", 1, "replace", "sockets and files move to the run folder, a terminal becomes null"],
  ["serial parallel debugcon", 1, "replace", "as -chardev"],
  ["netdev nic net", 1, "check", "user, hub, and tap or bridge without programs of the host"],
  ["monitor qmp qmp-pretty mon", 1, "drop", "the destination has a QMP socket of its own"],
  ["display vnc", 1, "replace", "no window; VNC where the policy allows it"],
  ["nographic", 0, "replace", "no terminal; the machine stays one without graphics"],
  ["curses sdl no-frame alt-grab ctrl-grab no-quit show-cursor", 0, "drop", "window"],
  ["full-screen portrait", 0, "drop", "window"],
  ["rotate", 1, "drop", "window"],
  ["audiodev audio", 1, "replace", "the same device without sound of the host"],
  ["soundhw", 1, "refuse", "plays on the host; write -device and -audiodev instead"],
  ["spice", 1, "refuse", "opens ports with the source's keys and passwords"],
];
const PROCESS: readonly Row[] = [
  ["S daemonize", 0, "drop", "set anew"],
  ["incoming pidfile D", 1, "drop", "set anew"],
  ["loadvm", 1, "drop", "the state comes from the source"],
  ["runas chroot", 1, "drop", "the receiver decides whose process it is"],
  ["sandbox", 1, "replace", "kept but for what forbids -daemonize"],
  ["run-with", 1, "replace", "as -runas and -chroot"],
  ["d dfilter trace", 1, "drop", "diagnosis of the source's process"],
  ["gdb", 1, "drop", "a debugger's port"],
  ["s", 0, "drop", "a debugger's port"],
  ["readconfig", 1, "refuse", "holds options that are not on the command line"],
  ["writeconfig dump-vmstate", 1, "refuse", "writes a file and ends QEMU"],
  ["set", 1, "refuse", "changes options after they are checked"],
  ["add-fd", 1, "refuse", "an open file of the source's process"],
  ["plugin", 1, "refuse", "loads a program"],
  ["qtest qtest-log", 1, "refuse", "test access to the machine"],
  ["preconfig", 0, "refuse", "the machine was set up over QMP, not by its command line"],
  ["h help version audio-help", 0, "refuse", "QEMU prints and ends"],
  ["xen-domid", 1, "refuse", "a Xen domain is not started by QEMU"],
  ["xen-attach xen-domid-restrict", 0, "refuse", "a Xen domain is not started by QEMU"],
];

/** The table in sections, as docs/launch.md shows it. */
export const OPTION_SECTIONS: readonly { title: string; rows: readonly OptionRow[] }[] = [
  { title: "Machine", rows: expand(MACHINE) },
  { title: "Disks", rows: expand(DISKS) },
  { title: "Connections", rows: expand(CONNECTIONS) },
  { title: "Process", rows: expand(PROCESS) },
];

/** Option name (without dashes) to its row. */
export const OPTION_TABLE: ReadonlyMap<string, OptionRow> = new Map(
  OPTION_SECTIONS.flatMap(({ rows }) => rows).map((row) => [row.name, row]),
);

function expand(rows: readonly Row[]): OptionRow[] {
  return rows.flatMap(([names, takesValue, treatment, why]) =>
    names.split(" ").map((name) => ({ name, takesValue: takesValue === 1, treatment, why }))
  );
}
