// Drives as QEMU makes them from `-drive` and its shorthands: their interface, and the name that QEMU
// gives to one without an id. Followed: `drive_new` in QEMU's blockdev.c; checked with `query-block`.

import { quote } from "../../base/errors.ts";
import { KeyValues } from "./keyval.ts";
import { type Option, refuse } from "./options.ts";

/** What a shorthand stands for; the file name goes into `file`. */
const SHORTHANDS: ReadonlyMap<string, Record<string, string>> = new Map(Object.entries({
  hda: { index: "0", media: "disk" },
  hdb: { index: "1", media: "disk" },
  hdc: { index: "2", media: "disk" },
  hdd: { index: "3", media: "disk" },
  cdrom: { index: "2", media: "cdrom" },
  fda: { if: "floppy", index: "0" },
  fdb: { if: "floppy", index: "1" },
  pflash: { if: "pflash" },
  sd: { if: "sd" },
  mtdblock: { if: "mtd" },
}));
const INTERFACES = ["none", "ide", "scsi", "floppy", "pflash", "mtd", "sd", "virtio"];

export interface Drive {
  readonly option: Option;
  /** The arguments that `-drive` would have had. */
  readonly args: KeyValues;
  /** The BlockBackend's name. */
  readonly id: string;
}

/**
 * All drives of a command line for machine type `machine`, in order.
 * @throws AgentError `option_refused` for one that QEMU would not take
 */
export function findDrives(options: readonly Option[], machine: string): Drive[] {
  const units = unitsPerBus(machine);
  const taken = new Set<string>();
  return options.filter(isDrive).map((option) => {
    const args = driveArgs(option);
    const type = args.get("if") ?? (machine.startsWith("microvm") ? "none" : "ide");
    if (!INTERFACES.includes(type)) refuse(option, `has the interface ${quote(type)}`);
    const perBus = units.get(type) ?? 0;
    const place = findPlace(option, { args, perBus, isTaken: (at) => taken.has(`${type} ${at}`) });
    taken.add(`${type} ${place.bus}:${place.unit}`);
    const isCd = args.get("media") === "cdrom";
    const medium = type === "ide" || type === "scsi" ? (isCd ? "-cd" : "-hd") : "";
    const id = args.get("id") ?? `${type}${perBus > 0 ? place.bus : ""}${medium}${place.unit}`;
    return { option, args, id };
  });
}

function isDrive(option: Option): boolean {
  return option.name === "drive" || SHORTHANDS.has(option.name);
}

function driveArgs(option: Option): KeyValues {
  const shorthand = SHORTHANDS.get(option.name);
  return shorthand ? KeyValues.of({ ...shorthand, file: option.value! }) : option.args!;
}

/** Units on a bus by interface; interfaces that are not here have one bus without end. */
function unitsPerBus(machine: string): Map<string, number> {
  const units = new Map([["ide", 2], ["scsi", 7]]);
  if (machine.startsWith("pc-q35-")) units.set("ide", 1); // AHCI: a bus for each port
  if (machine.startsWith("microvm")) units.set("none", 1);
  return units;
}

function findPlace(
  option: Option,
  drive: { args: KeyValues; perBus: number; isTaken: (place: string) => boolean },
): { bus: number; unit: number } {
  const { args, perBus, isTaken } = drive;
  const index = readNumber(option, args.get("index"));
  let bus = readNumber(option, args.get("bus")) ?? 0;
  let unit = readNumber(option, args.get("unit"));
  if (index !== undefined) {
    bus = perBus > 0 ? Math.floor(index / perBus) : 0;
    unit = perBus > 0 ? index % perBus : index;
  }
  if (unit === undefined) {
    for (unit = 0; isTaken(`${bus}:${unit}`);) {
      unit++;
      if (perBus > 0 && unit >= perBus) {
        unit -= perBus;
        bus++;
      }
    }
  }
  return { bus, unit };
}

function readNumber(option: Option, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (!/^\d{1,4}$/.test(text)) refuse(option, `has ${quote(text)} where a number is expected`);
  return Number(text);
}
