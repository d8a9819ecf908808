// The tiny guest's image and the reading of its status. Whether it works is shown by
// test/qemu/guest_test.ts.

import { assertEquals, assertMatch, assertStrictEquals, assertThrows } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import {
  makeBootProgram,
  parseMonitorDump,
  parseStatus,
  STATUS_BYTES,
  STATUS_COMMAND,
} from "../../../src/demo_guest/guest.ts";
import { IMAGE_BASE64 } from "../../../src/demo_guest/image.ts";
import { requires } from "../../lib/requires.ts";

function statusBytes(words: number[]): Uint8Array {
  const bytes = new Uint8Array(STATUS_BYTES);
  const view = new DataView(bytes.buffer);
  words.forEach((word, i) => view.setUint32(4 * i, word, true));
  return bytes;
}

Deno.test({
  name: "tiny guest: assembling guest.asm gives the committed image",
  ...requires("nasm"),
  async fn() {
    const folder = new URL("../../../", import.meta.url);
    const { code, stdout, stderr } = await new Deno.Command("bash", {
      args: [new URL("scripts/assemble-guest", folder).pathname, "--stdout"],
      stdout: "piped",
      stderr: "piped",
    }).output();
    assertEquals(code, 0, new TextDecoder().decode(stderr));
    assertEquals(
      new TextDecoder().decode(stdout),
      await Deno.readTextFile(new URL("src/demo_guest/image.ts", folder)),
    );
  },
});

Deno.test("tiny guest: the boot program is whole sectors with a boot signature", () => {
  const program = makeBootProgram();
  assertEquals(program.length % 512, 0);
  assertEquals([...program.subarray(510, 512)], [0x55, 0xaa]);
  assertEquals(new TextDecoder().decode(program.subarray(512, 516)), "MAGP");
});

Deno.test("tiny guest: the defaults of guest.ts are those of guest.asm", () => {
  assertEquals(makeBootProgram(), Uint8Array.from(atob(IMAGE_BASE64), (c) => c.charCodeAt(0)));
});

Deno.test("tiny guest: options land in the parameter block, in order", () => {
  const program = makeBootProgram({
    diskMask: 5,
    firstLba: 100,
    slots: 7,
    windowBytes: 12 * 4096,
    pagesPerTurn: 9,
    turnMs: 100,
    reportEvery: 3,
  });
  const view = new DataView(program.buffer, 516, 36);
  assertEquals(
    Array.from({ length: 9 }, (_, i) => view.getUint32(4 * i, true)),
    [5, 100, 7, 0x200000, 12, 9, 59659, 2, 3],
  );
});

Deno.test("tiny guest: options outside their range are refused with the range", () => {
  for (
    const bad of [{ slots: 0 }, { slots: 8193 }, { windowBytes: 4097 }, { firstLba: 3 }, {
      turnMs: -1,
    }]
  ) {
    const error = assertThrows(() => makeBootProgram(bad), AgentError);
    assertMatch(error.message, /is -?[\d.]+, but must be an integer from \d+ to \d+$/);
  }
});

Deno.test("tiny guest: a status is read field by field", () => {
  assertEquals(
    parseStatus(statusBytes([0x3147414d, 10, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12])),
    {
      count: 10,
      badDisk: 1,
      badRam: 2,
      ioErrors: 3,
      disks: 4,
      windowBytes: 5 * 4096,
      laps: 6,
      firstBad: { disk: 8, slot: 9, expected: 11, found: 12 },
    },
  );
  assertStrictEquals(parseStatus(statusBytes([0x3147414d, 10]))?.firstBad, null);
});

Deno.test("tiny guest: no status before the magic is there, an error when it is cut off", () => {
  assertStrictEquals(parseStatus(statusBytes([0, 10])), null);
  assertThrows(() => parseStatus(new Uint8Array(STATUS_BYTES - 1)), AgentError, "51 bytes");
});

Deno.test("tiny guest: the monitor's dump becomes bytes, anything else is refused", () => {
  assertEquals(STATUS_COMMAND, "xp /13wx 0x5000");
  const dump = "0000000000005000: 0x3147414d 0x000000ff\r\n0000000000005008: 0x00000001\r\n";
  assertEquals([...parseMonitorDump(dump)], [0x4d, 0x41, 0x47, 0x31, 255, 0, 0, 0, 1, 0, 0, 0]);
  assertThrows(
    () => parseMonitorDump("Cannot access memory"),
    AgentError,
    "'Cannot access memory'",
  );
});
