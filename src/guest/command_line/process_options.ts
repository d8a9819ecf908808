// Options about QEMU's own process: display, sound, sandbox. The destination's process has no
// terminal and no window; what the guest sees of a machine without graphics stays.

import type { Destination } from "./destination.ts";
import { KeyValues } from "./keyval.ts";
import { fromArgs, makeOption, type Option } from "./options.ts";

const VNC_KEYS = new Set(
  "vnc to password share lossy non-adaptive power-control key-delay-ms ipv4 ipv6 display head id audiodev"
    .split(" "),
);

/**
 * `-nographic` is a machine without graphics, no window, and a terminal. The first is the guest's:
 * its firmware asks for it. For the serial and parallel ports that QEMU would have joined to the
 * terminal it makes the same ports without one.
 */
export function rewriteNographic(): Option[] {
  return [makeOption("machine", "graphics=off")];
}

/** `-display`: none, or VNC written the other way. `-display none` is added once for all. */
export function rewriteDisplay(option: Option, destination: Destination): Option[] {
  const value = option.value ?? "";
  if (value.startsWith("vnc=")) {
    return rewriteVnc(makeOption("vnc", value.slice("vnc=".length)), destination);
  }
  if (value !== "none") destination.warn(`the display '${value.split(",")[0]}' was left out`);
  return [];
}

/** `-vnc`. */
export function rewriteVnc(option: Option, destination: Destination): Option[] {
  const args = option.args!;
  const display = args.get("vnc") ?? "";
  if (display === "none") return [];
  // A display whose protection does not come along is no display.
  const isPlain = args.pairs.every(({ key }) => VNC_KEYS.has(key));
  if (isPlain && display.startsWith("unix:")) {
    args.set("vnc", `unix:${destination.newSocket(option, "vnc")}`);
    return [option];
  }
  if (isPlain && destination.policy.allowVnc && /^[\w.:[\]-]*:\d{1,5}$/.test(display)) {
    return [option];
  }
  destination.warn(`the VNC display '${display}' was left out`);
  return [];
}

/** `-audiodev` and `-audio`: the sound device stays, its sound goes nowhere. */
export function rewriteAudio(option: Option, destination: Destination): Option[] {
  const args = option.args!;
  if (args.get("driver") !== "none") destination.warn("sound of the source's host was left out");
  const kept = ["id", "model"].flatMap((key) => {
    const value = args.get(key);
    return value === undefined ? [] : [[key, value]];
  });
  return [fromArgs(option.name, KeyValues.of({ driver: "none", ...Object.fromEntries(kept) }))];
}

/**
 * `-sandbox`: QEMU sets it up before it goes to the background, and these two rules would then end
 * it (seen with QEMU 7.2: `spawn=deny` kills at fork, `elevateprivileges` at setsid).
 */
export function rewriteSandbox(option: Option, destination: Destination): Option[] {
  const args = option.args!;
  for (const key of ["spawn", "elevateprivileges"]) {
    if (["deny", "children"].includes(args.get(key) ?? "")) {
      destination.warn(`-sandbox ${key}=${args.get(key)} was left out: it forbids -daemonize`);
      args.delete(key);
    }
  }
  return [option];
}

/** `-run-with`: another user or root folder was the source host's business. */
export function rewriteRunWith(option: Option): Option[] {
  option.args!.keep(({ key }) => key === "async-teardown");
  return option.args!.pairs.length > 0 ? [option] : [];
}
