// Character devices: `-chardev` and its shorthands. The guest's side stays; the host's side becomes a
// socket or file in the run folder, or nothing, since the new process has no terminal.

import { quote } from "../../base/errors.ts";
import type { KeyValues } from "./keyval.ts";
import type { Destination } from "./destination.ts";
import { type Option, readArgs, refuse } from "./options.ts";

const COMMON_KEYS = ["backend", "id", "mux", "logfile", "logappend"];
/** Backends that touch nothing of the host, and the keys of their own. */
const HARMLESS: ReadonlyMap<string, readonly string[]> = new Map([
  ["null", []],
  ["ringbuf", ["size"]],
  ["memory", ["size"]],
  ["vc", ["width", "height", "cols", "rows"]],
  ["msmouse", []],
  ["wctablet", []],
  ["pty", []],
]);
const SOCKET_KEYS = ["path", "server", "wait"];

/** `-chardev`. */
export function rewriteChardev(option: Option, destination: Destination): Option[] {
  const args = option.args!;
  const backend = args.get("backend") ?? "";
  const owner = `chardev ${args.get("id") ?? ""}`;
  if (backend === "stdio") {
    destination.warn(`${owner}: the source's terminal became null`);
    args.set("backend", "null");
    args.delete("signal");
    allowKeys(option, []);
  } else if (backend === "socket") {
    rewriteSocket(option, destination, owner);
  } else if (backend === "file") {
    allowKeys(option, ["path", "append"]);
    rewriteFile(args, destination, { key: "path", owner });
  } else if (HARMLESS.has(backend)) {
    allowKeys(option, HARMLESS.get(backend)!);
  } else if (!args.find("backend")?.trusted) {
    refuse(option, `connects to the host by ${quote(backend)}, which is not allowed`);
  }
  if (args.get("logfile") !== undefined) {
    rewriteFile(args, destination, { key: "logfile", owner: `${owner} log` });
  }
  return [option];
}

function rewriteSocket(option: Option, destination: Destination, owner: string): void {
  const args = option.args!;
  const id = args.get("id") ?? "ID";
  if (args.pairs.some((pair) => pair.trusted && ["path", "host", "port"].includes(pair.key))) {
    return; // the operator of this host says where it goes
  }
  if (args.get("path") === undefined) {
    refuse(
      option,
      "opens a network connection of the host",
      `name a socket with --override chardev.${id}.path=SOCKET`,
    );
  }
  if (!args.isOn("server")) {
    refuse(
      option,
      "connects to a program beside the source's QEMU",
      `start that program here and name its socket with --override chardev.${id}.path=SOCKET`,
    );
  }
  args.delete("reconnect");
  args.delete("reconnect-ms");
  allowKeys(option, SOCKET_KEYS);
  args.set("path", destination.newSocket(option, owner));
  args.setFlag("wait", false);
}

function rewriteFile(
  args: KeyValues,
  destination: Destination,
  { key, owner }: { key: string; owner: string },
): void {
  const pair = args.find(key);
  if (pair === undefined || pair.trusted) return;
  args.set(key, destination.writableOrNull(pair.value) ?? destination.newFile(owner));
}

function allowKeys(option: Option, keys: readonly string[]): void {
  // A shorthand has none of the common parts: nothing would put its log file in its place.
  const common = option.name === "chardev" ? COMMON_KEYS : [];
  const unknown = option.args!.pairs.find((pair) =>
    !pair.trusted && !common.includes(pair.key) && !keys.includes(pair.key)
  );
  if (unknown) refuse(option, `has the part ${quote(unknown.key)}, which is not known here`);
}

/** `-serial`, `-parallel`, `-debugcon`; `number` counts the options of that name from 0. */
export function rewriteShorthand(
  option: Option,
  destination: Destination,
  number: number,
): Option[] {
  const owner = `${option.name} ${number}`;
  const value = (option.value ?? "").replace(/^mon:/, "");
  const changed = (text: string): Option[] => [{ name: option.name, value: text, args: null }];
  if (value === "stdio") {
    destination.warn(`${owner}: the source's terminal became null`);
    return changed("null");
  }
  if (/^(none|null|pty|msmouse|wctablet|vc(:\d+C?x\d+C?)?|chardev:[\w.-]+)$/.test(value)) {
    return changed(value);
  }
  if (value.startsWith("file:")) {
    const path = value.slice("file:".length);
    return changed(`file:${destination.writableOrNull(path) ?? destination.newFile(owner)}`);
  }
  if (value.startsWith("unix:")) {
    const args = readArgs(option, { text: value.slice("unix:".length), impliedKey: "path" });
    rewriteSocket({ ...option, args }, destination, owner);
    return changed(`unix:${args}`);
  }
  refuse(
    option,
    "connects to the host in a way that is not allowed",
    "write it as -chardev with an id, so that --override can name its place here",
  );
}

/** Ids of the character devices that only the monitors use: those go with the monitors. */
export function findMonitorChardevs(options: readonly Option[]): Set<string> {
  const ids = new Set<string>();
  for (const { name, args } of options) {
    const id = name === "mon" ? args?.get("chardev") : undefined;
    if (id !== undefined) ids.add(id);
  }
  for (const { name, value, args } of options) {
    if (name === "mon" || name === "chardev" || name === "monitor") continue;
    const used = args
      ? args.pairs.filter((pair) => /chardev\d*$/.test(pair.key)).map((pair) => pair.value)
      : [/^(?:mon:)?chardev:(.*)$/.exec(value ?? "")?.[1] ?? ""];
    for (const id of used) ids.delete(id);
  }
  return ids;
}
