import { assertEquals, assertMatch, assertThrows } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import type { Reader } from "../../../src/cli/option_spec.ts";
import {
  readDuration,
  readHostPort,
  readList,
  readPair,
  readPath,
  readPid,
  readPortRange,
  readProgram,
  readSize,
  readSocketPath,
} from "../../../src/cli/values.ts";

function check<T>(reader: Reader<T>, good: [string, T][], bad: string[]): void {
  for (const [text, value] of good) assertEquals(reader(text, "--x"), value, text);
  for (const text of bad) {
    const error = assertThrows(() => reader(text, "--x"), AgentError);
    assertEquals(error.kind, "usage");
    assertMatch(error.message, /^--x '.*' \S/);
  }
}

Deno.test("sizes count in steps of 1024", () => {
  check(readSize, [["1", 1], ["100M", 104857600], ["2k", 2048], ["3G", 3 * 2 ** 30], [
    "1T",
    2 ** 40,
  ]], ["0", "", "M", "-1", "1.5G", "1MB", "1 M", "99999999T", "0x10", "1e3"]);
});

Deno.test("durations need a unit and fit a timer", () => {
  check(readDuration(), [["500ms", 500], ["30s", 30_000], ["10m", 600_000], ["2h", 7_200_000]], [
    "30",
    "0s",
    "1d",
    "-1s",
    "s",
    "1.5s",
    "600h", // more than 2^31-1 ms: such a timer would end at once
  ]);
  check(readDuration({ maxMs: 1000 }), [["1s", 1000]], ["1001ms"]);
});

Deno.test("addresses", () => {
  check(readHostPort({ anyPort: false }), [
    ["h:1", { host: "h", port: 1 }],
    ["node-2.example.org:65535", { host: "node-2.example.org", port: 65535 }],
    ["[::1]:80", { host: "::1", port: 80 }],
    ["[fe80::1%eth0]:80", { host: "fe80::1%eth0", port: 80 }],
  ], ["h", "h:", ":1", "h:0", "h:65536", "h:x", "::1", "::1:80", "[h]:1", "[]:1", "a b:1", "h:+1"]);
  check(readHostPort({ anyPort: true }), [["h:0", { host: "h", port: 0 }]], ["h"]);
});

Deno.test("ranges of ports", () => {
  check(readPortRange, [["1-1", { first: 1, last: 1 }], ["10-20", { first: 10, last: 20 }]], [
    "20-10",
    "0-5",
    "5",
    "1-65536",
    "1-2-3",
    "-",
  ]);
});

Deno.test("paths become absolute and keep their '..'", () => {
  check(readPath("/c"), [
    ["/a/", "/a"],
    ["/", "/"],
    ["b", "/c/b"],
    ["./b/", "/c/b"],
    ["../b", "/c/../b"],
    [".hidden", "/c/.hidden"],
  ], []);
  check(readSocketPath("/c"), [["unix:/a", "/a"], ["unix:b", "/c/b"], ["b", "/c/b"]], [
    "unix:",
    "/" + "a".repeat(107),
    "ü".repeat(60),
  ]);
  check(readProgram("/c"), [["./q", "/c/q"], ["/q", "/q"]], ["qemu-system-x86_64"]);
});

Deno.test("lists, pairs and process ids", () => {
  check(readList, [["a", ["a"]], ["a, b", ["a", "b"]]], ["a,", ",", "a,,b", "a,b,a"]);
  check(readPair("A=B"), [["a=b=c", ["a", "b=c"]]], ["a", "=b", "a=", "="]);
  check(readPid, [["12", 12]], ["0", "-1", "x", "1.5", "99999999999"]);
});
