// From the command line of the source's QEMU to the one that starts the same machine here, waiting
// for the migration. Everything on it may come from a hostile peer: what is not understood, or not
// allowed here, is refused with a reason. Pure: reads no file but through the settings' `realPath`.
// Specification: docs/launch.md; the treatment of every option: option_table.ts.

import { AgentError } from "../../base/errors.ts";
import type { QemuParams } from "../params.ts";
import { findMonitorChardevs, rewriteChardev, rewriteShorthand } from "./chardevs.ts";
import { Destination, type DestinationSettings, type ReplacedFile } from "./destination.ts";
import { checkDevice, checkGlobal, checkObject, checkTpm, checkUsbDevice } from "./devices.ts";
import { rewriteDisks } from "./disks.ts";
import { KeyValues } from "./keyval.ts";
import {
  checkAccel,
  checkAcpiTable,
  checkBoot,
  checkFirmware,
  checkFwCfg,
  checkIcount,
  checkKeymap,
  checkMachineType,
  checkMemoryPath,
  checkReadable,
  checkSmbios,
  rewriteMachine,
} from "./machine.ts";
import { checkNetwork } from "./networks.ts";
import { OPTION_TABLE } from "./option_table.ts";
import { makeOption, type Option, parseOptions, refuse, toArgv } from "./options.ts";
import { applyOverrides } from "./overrides.ts";
import {
  rewriteAudio,
  rewriteDisplay,
  rewriteNographic,
  rewriteRunWith,
  rewriteSandbox,
  rewriteVnc,
} from "./process_options.ts";

export interface RewrittenCommandLine {
  /** Arguments for QEMU, without argv[0]. To be started with `/` or the run folder as its folder. */
  argv: string[];
  /** What the guest's new process does without: one sentence each. */
  warnings: string[];
  /** What QEMU will make in the run folder. */
  files: ReplacedFile[];
}

type Handler = (option: Option, destination: Destination, number: number) => Option[];

/** What is done with the options whose treatment is `check` or `replace`, but for the disks'. */
export const HANDLERS: ReadonlyMap<string, Handler> = new Map<string, Handler>([
  ["machine", rewriteMachine],
  ["M", rewriteMachine],
  ["accel", checkAccel],
  ["global", checkGlobal],
  ["boot", checkBoot],
  ["k", checkKeymap],
  ["icount", checkIcount],
  ["bios", checkFirmware],
  ["option-rom", checkFirmware],
  ["L", checkReadable],
  ["kernel", checkReadable],
  ["initrd", checkReadable],
  ["dtb", checkReadable],
  ["shim", checkReadable],
  ["smbios", checkSmbios],
  ["acpitable", checkAcpiTable],
  ["fw_cfg", checkFwCfg],
  ["mem-path", checkMemoryPath],
  ["device", checkDevice],
  ["object", checkObject],
  ["usbdevice", checkUsbDevice],
  ["tpmdev", checkTpm],
  ["chardev", rewriteChardev],
  ["serial", rewriteShorthand],
  ["parallel", rewriteShorthand],
  ["debugcon", rewriteShorthand],
  ["netdev", checkNetwork],
  ["nic", checkNetwork],
  ["net", checkNetwork],
  ["display", rewriteDisplay],
  ["vnc", rewriteVnc],
  ["nographic", rewriteNographic],
  ["audiodev", rewriteAudio],
  ["audio", rewriteAudio],
  ["sandbox", rewriteSandbox],
  ["run-with", rewriteRunWith],
]);

/**
 * The arguments that start `params`' machine here, stopped and waiting for its migration.
 * @throws AgentError (kind refused, side destination) naming the option and what to do about it
 */
export function rewriteCommandLine(
  params: QemuParams,
  settings: DestinationSettings,
): RewrittenCommandLine {
  const destination = new Destination(params, settings);
  if (params.qemu.argv.length === 0) {
    throw new AgentError(
      "command_line_unknown",
      "Cannot start the guest here: the command line of the source's QEMU could not be read there",
      { kind: "refused", side: "destination", hint: "use receive --adopt-qmp or --launch-command" },
    );
  }
  checkMachineType(destination);
  const options = parseOptions(params.qemu.argv);
  applyOverrides(options, settings.policy.overrides);
  const disks = rewriteDisks(options, destination);
  const monitors = findMonitorChardevs(options);
  const counts = new Map<string, number>();
  const rewritten = options.flatMap((option) => {
    const number = counts.get(option.name) ?? 0;
    counts.set(option.name, number + 1);
    const replacement = disks.replacements.get(option);
    if (replacement) return replacement;
    if (option.name === "chardev" && monitors.has(option.args!.get("id") ?? "")) return [];
    return treat(option, destination, number);
  });
  return {
    argv: toArgv([
      ...machineUnlessGiven(rewritten, params.machine),
      ...disks.added,
      ...rewritten,
      ...ownOptions(settings),
    ]),
    warnings: destination.warnings,
    files: destination.files,
  };
}

function treat(option: Option, destination: Destination, number: number): Option[] {
  const { treatment, why } = OPTION_TABLE.get(option.name)!;
  switch (treatment) {
    case "keep":
      return [option];
    case "drop":
      return [];
    case "refuse":
      return refuse(option, `is not possible: ${why}`);
    case "check":
    case "replace":
      return HANDLERS.get(option.name)!(option, destination, number);
  }
}

function machineUnlessGiven(options: readonly Option[], machine: string): Option[] {
  const isGiven = options.some(({ name, args }) => name === "machine" && args?.get("type"));
  return isGiven ? [] : [makeOption("machine", machine)];
}

function ownOptions({ qmpPath, pidFile, logFile }: DestinationSettings): Option[] {
  const socket = KeyValues.of({ path: qmpPath, server: "on", wait: "off" });
  const option = (name: string, value: string | null): Option => ({ name, value, args: null });
  return [
    option("display", "none"),
    // With any log item on, a daemonized QEMU's error messages go to the log instead of /dev/null;
    // `page` says nothing in system emulation.
    ...(logFile === null ? [] : [option("D", logFile), option("d", "page")]),
    option("qmp", `unix:${socket.toString().slice("path=".length)}`),
    option("pidfile", pidFile),
    option("S", null),
    option("incoming", "defer"),
    option("daemonize", null),
  ];
}

/**
 * Ids of the devices that a command line names. Takes any command line, also one that could not be
 * rewritten: a guest may move without that.
 */
export function listDeviceIds(argv: readonly string[]): Set<string> {
  const texts = argv.filter((_, at) => /^--?device$/.test(argv[at - 1] ?? ""));
  return new Set(texts.flatMap((text) => {
    const json = /"id"\s*:\s*"([^"]*)"/.exec(text)?.[1];
    const plain = text.startsWith("{") ? undefined : /(?:^|,)id=([^,]*)/.exec(text)?.[1];
    return json ?? plain ?? [];
  }));
}

/** `argv` without the devices of these ids, which were taken out of the running guest. */
export function withoutDevices(argv: readonly string[], gone: ReadonlySet<string>): string[] {
  const isGone = (at: number) =>
    [...listDeviceIds(argv.slice(Math.max(at - 1, 0), at + 1))].some((id) => gone.has(id));
  return argv.filter((_, at) => !isGone(at) && !isGone(at + 1));
}
