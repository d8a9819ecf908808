// The values that options take: addresses, sizes, durations, paths, lists. Each reader turns the
// text into a typed value or refuses it in one sentence that quotes it and says what is right.
// Knows no option by name.

import { quote } from "../base/errors.ts";
import { type Reader, refuseValue } from "./option_spec.ts";

export interface HostPort {
  host: string;
  port: number;
}

/** `unix` socket addresses hold 108 bytes with the closing zero. */
const SOCKET_PATH_LIMIT_BYTES = 107;
/** A timer of more than 2^31-1 ms ends at once instead of never. */
const DURATION_LIMIT_MS = 2 ** 31 - 1;

/** QEMU takes no more than 2000 s as `downtime-limit`. */
export const DOWNTIME_LIMIT_MAX_MS = 2_000_000;

const SIZE_UNITS: Record<string, number> = {
  "": 1,
  K: 2 ** 10,
  M: 2 ** 20,
  G: 2 ** 30,
  T: 2 ** 40,
};
const DURATION_UNITS_MS: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };

export const readText: Reader<string> = (text) => text;

/** One of `choices`, typed. */
export function readChoice<const T extends string>(choices: readonly T[]): Reader<T> {
  return (text, option) =>
    choices.find((choice) => choice === text) ??
      refuseValue(option, quote(text), `is not known: give ${choices.join(" or ")}`);
}

/** `HOST:PORT` or `[IPV6]:PORT`; port 0 only where `anyPort` allows "choose one". */
export function readHostPort(options: { anyPort: boolean }): Reader<HostPort> {
  return (text, option) => {
    const match = /^(?:\[([^\]]*)\]|([^:]*)):([^:]*)$/.exec(text);
    if (!match) {
      const right = /:.*:/.test(text)
        ? "is an IPv6 address without brackets or port: give [ADDRESS]:PORT"
        : "has no port: give HOST:PORT";
      return refuseValue(option, quote(text), right);
    }
    const host = match[1] ?? match[2] ?? "";
    if (!isHost(host) || (match[1] !== undefined && !host.includes(":"))) {
      refuseValue(option, quote(text), "names no host: give HOST:PORT or [IPV6]:PORT");
    }
    const port = readPort(match[3] ?? "");
    if (port === null || (port === 0 && !options.anyPort)) {
      const range = options.anyPort ? "0 (any free one) to 65535" : "1 to 65535";
      refuseValue(option, quote(text), `has no usable port: give one from ${range}`);
    }
    return { host, port };
  };
}

/** A host name or address without a port. */
export const readHost: Reader<string> = (text, option) =>
  isHost(text) ? text : refuseValue(option, quote(text), "is not a host name or address");

/** `FIRST-LAST`, both included. */
export const readPortRange: Reader<{ first: number; last: number }> = (text, option) => {
  const [first, last, ...more] = text.split("-").map(readPort);
  if (!first || !last || more.length > 0 || first > last) {
    return refuseValue(
      option,
      quote(text),
      "is not a range of ports: give FIRST-LAST, such as 49152-49215",
    );
  }
  return { first, last };
};

/** Bytes: a whole number with an optional K, M, G or T, which count in steps of 1024. */
export const readSize: Reader<number> = (text, option) => {
  const match = /^(\d+)([KMGT]?)$/i.exec(text);
  const bytes = match ? Number(match[1]) * (SIZE_UNITS[match[2]!.toUpperCase()] ?? 1) : 0;
  if (bytes > 0 && Number.isSafeInteger(bytes)) return bytes;
  return refuseValue(
    option,
    quote(text),
    "is not a size above zero: give bytes, or a number with K, M, G or T (of 1024), such as 100M",
  );
};

/** Milliseconds, of a whole number with its unit: 500ms, 30s, 10m, 2h. */
export function readDuration(options: { maxMs?: number } = {}): Reader<number> {
  const maxMs = options.maxMs ?? DURATION_LIMIT_MS;
  return (text, option) => {
    const match = /^(\d+)(ms|s|m|h)$/.exec(text);
    const ms = match ? Number(match[1]) * DURATION_UNITS_MS[match[2]!]! : 0;
    if (ms > maxMs) {
      refuseValue(option, quote(text), `is too long: at most ${Math.floor(maxMs / 1000)}s`);
    }
    if (ms > 0) return ms;
    return refuseValue(
      option,
      quote(text),
      "is not a duration above zero: give a number with its unit, such as 500ms, 30s, 10m or 2h",
    );
  };
}

/** A migration's id, as the receiver makes it. */
export const readMigrationId: Reader<string> = (text, option) =>
  /^[A-Za-z0-9_-]{1,64}$/.test(text) ? text : refuseValue(
    option,
    quote(text),
    "is no migration's id: 'migrate-agent status' lists them",
  );

/** A process id. */
export const readPid: Reader<number> = (text, option) =>
  /^[1-9]\d{0,9}$/.test(text)
    ? Number(text)
    : refuseValue(option, quote(text), "is not a process id: give a number above zero");

/**
 * An absolute path without slashes at its end. `..` stays as it is: taking it out of the text would
 * name another file where a symbolic link comes before it.
 */
export function readPath(cwd: string): Reader<string> {
  return (text) => {
    const joined = text.startsWith("/")
      ? text
      : `${cwd.replace(/\/$/, "")}/${text.replace(/^(?:\.\/+)+/, "")}`;
    return joined.replace(/(?!^)\/+$/, "");
  };
}

/** The path of a unix socket; `unix:` in front of it is how QEMU writes it. */
export function readSocketPath(cwd: string): Reader<string> {
  return (text, option) => {
    const path = text.replace(/^unix:/, "");
    if (path === "") refuseValue(option, quote(text), "names no socket: give its path");
    const absolute = readPath(cwd)(path, option);
    const lengthBytes = new TextEncoder().encode(absolute).length;
    if (lengthBytes > SOCKET_PATH_LIMIT_BYTES) {
      refuseValue(
        option,
        quote(absolute),
        `is ${lengthBytes} bytes long: a socket's path may have ${SOCKET_PATH_LIMIT_BYTES}`,
      );
    }
    return absolute;
  };
}

/** The path of a program. A bare name is refused, since it would be taken from the current folder. */
export function readProgram(cwd: string): Reader<string> {
  return (text, option) =>
    text.includes("/") ? readPath(cwd)(text, option) : refuseValue(
      option,
      quote(text),
      `is a name and not a path: give the path, such as "$(command -v ${
        text.replace(/\W/g, "-")
      })"`,
    );
}

/** Names separated by commas. */
export const readList: Reader<string[]> = (text, option) => {
  const names = text.split(",").map((name) => name.trim());
  if (names.includes("")) {
    refuseValue(option, quote(text), "has an empty name in it: give names separated by commas");
  }
  const twice = names.find((name, at) => names.indexOf(name) !== at);
  if (twice !== undefined) refuseValue(option, quote(text), `names ${quote(twice)} twice`);
  return names;
};

/** `LEFT=RIGHT`, cut at the first `=`; `form` is how the help writes it. */
export function readPair(form: string): Reader<[left: string, right: string]> {
  return (text, option) => {
    const at = text.indexOf("=");
    if (at <= 0 || at === text.length - 1) {
      return refuseValue(option, quote(text), `is not complete: give ${form}`);
    }
    return [text.slice(0, at), text.slice(at + 1)];
  };
}

function isHost(text: string): boolean {
  return /^[A-Za-z0-9_.-]{1,253}$/.test(text) ||
    /^[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(%[\w.-]+)?$/.test(text);
}

function readPort(text: string): number | null {
  return /^\d{1,5}$/.test(text) && Number(text) <= 65535 ? Number(text) : null;
}
