import { assertEquals } from "@std/assert";
import {
  formatBytes,
  formatDuration,
  formatRate,
  oneLine,
  percentOf,
  shorten,
  timeLeftMs,
} from "../../../src/cli/format.ts";

Deno.test("sizes have three digits", () => {
  const cases: [number, string][] = [
    [0, "0 B"],
    [-5, "0 B"],
    [999, "999 B"],
    [1000, "0.98 KiB"],
    [1024, "1.00 KiB"],
    [1536 * 1024, "1.50 MiB"],
    [10 * 2 ** 30, "10.0 GiB"],
    [999.4 * 2 ** 20, "999 MiB"],
    [999.6 * 2 ** 20, "0.98 GiB"],
    [2 ** 53, "8.00 PiB"],
  ];
  for (const [bytes, text] of cases) assertEquals(formatBytes(bytes), text);
  assertEquals(formatRate(2 ** 20), "1.00 MiB/s");
});

Deno.test("durations change their unit without gaps", () => {
  const cases: [number, string][] = [
    [0, "0 ms"],
    [999, "999 ms"],
    [999.6, "1.0 s"],
    [59_900, "59.9 s"],
    [59_960, "1 min 00 s"],
    [245_000, "4 min 05 s"],
    [3_599_400, "59 min 59 s"],
    [3_600_000, "1 h 00 min"],
    [7_620_000, "2 h 07 min"],
  ];
  for (const [ms, text] of cases) assertEquals(formatDuration(ms), text);
});

Deno.test("time left and percent", () => {
  assertEquals(timeLeftMs(1000, 500), 2000);
  assertEquals(timeLeftMs(1000, 0), null);
  assertEquals(timeLeftMs(0, 0), 0);
  assertEquals(percentOf(999, 1000), 99);
  assertEquals(percentOf(1000, 1000), 100);
  assertEquals(percentOf(2000, 1000), 100);
  assertEquals(percentOf(0, 0), 100);
});

Deno.test("foreign text stays on its line and cannot steer a terminal", () => {
  assertEquals(oneLine("a\n  b\r\nc"), "a b c");
  assertEquals(oneLine("\x1b[2Jgone\x9b\u202e"), "\\u001b[2Jgone\\u009b\\u202e");
  assertEquals(oneLine("größe ✓"), "größe ✓");
  assertEquals(shorten("/very/long/path.raw", 9), "/ver….raw");
  assertEquals(shorten("abc", 3), "abc");
  assertEquals(shorten("abcd", 2), "ab");
});
