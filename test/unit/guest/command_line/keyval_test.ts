import { assert, assertEquals, assertThrows } from "@std/assert";
import { KeyValues, SyntaxFailure } from "../../../../src/guest/command_line/keyval.ts";

const list = (args: KeyValues) => args.pairs.map(({ key, value }) => [key, value]);

Deno.test("key=value as QEMU reads it", () => {
  const cases: [string, string | undefined, [string, string][]][] = [
    ["", undefined, []],
    ["a=b", undefined, [["a", "b"]]],
    ["a=b,", undefined, [["a", "b"]]],
    ["a=b,,c,d=e", undefined, [["a", "b,c"], ["d", "e"]]],
    ["a=,,,,,b=", undefined, [["a", ",,"], ["b", ""]]],
    ["file=/a=b,c", undefined, [["file", "/a=b"], ["c", "on"]]],
    ["socket,id=c,server,nowait", "backend", [
      ["backend", "socket"],
      ["id", "c"],
      ["server", "on"],
      ["wait", "off"],
    ]],
    ["a,,b,c=d", "path", [["path", "a,b"], ["c", "d"]]],
    ["path=x,c=d", "path", [["path", "x"], ["c", "d"]]],
    ["a=1,a=2", undefined, [["a", "1"], ["a", "2"]]],
    ["file.driver=host_device,file.filename=/dev/x", undefined, [
      ["file.driver", "host_device"],
      ["file.filename", "/dev/x"],
    ]],
  ];
  for (const [text, implied, pairs] of cases) {
    assertEquals(list(KeyValues.parse(text, implied)), pairs, text);
  }
});

Deno.test("the last of several values counts, and setting one leaves one", () => {
  const args = KeyValues.parse("a=1,b=2,a=3");
  assertEquals(args.get("a"), "3");
  args.set("a", "x,y");
  assertEquals(args.toString(), "b=2,a=x,,y");
});

Deno.test("an implied value that cannot stay implied gets its key", () => {
  const args = KeyValues.parse("tap,id=n", "type");
  args.set("type", "a=b");
  assertEquals(args.toString(), "type=a=b,id=n");
  const moved = KeyValues.parse("tap,id=n", "type");
  moved.delete("type");
  moved.set("type", "user");
  assertEquals(moved.toString(), "id=n,type=user");
});

Deno.test("an empty key is refused", () => {
  for (const text of ["=a", "a=b,=c", "no", "a=1,no"]) {
    assertThrows(() => KeyValues.parse(text), SyntaxFailure);
  }
});

Deno.test("JSON: dotted keys, exact integers, types kept", () => {
  const text = '{"driver":"qcow2","file":{"driver":"file","filename":"/a,b"},"read-only":true,' +
    '"wwn":12345678901234567890,"list":[1,{"x":2}],"backing":null,"empty":{}}';
  const args = KeyValues.parseJson(text);
  assertEquals(args.get("file.filename"), "/a,b");
  assertEquals(args.get("read-only"), "on");
  assert(args.isOn("read-only"));
  assertEquals(args.get("wwn"), "12345678901234567890");
  assertEquals(args.get("backing"), "");
  assertEquals(args.toString(), text);
  args.set("file.filename", '/"x"');
  args.setFlag("read-only", false);
  assertEquals(
    args.toString(),
    text.replace('"/a,b"', '"/\\"x\\""').replace('"read-only":true', '"read-only":false'),
  );
});

Deno.test("JSON that QEMU would not take, or that is no object, is refused", () => {
  const deep = '{"a":'.repeat(100) + "1" + "}".repeat(100);
  for (const text of ["{", "{}x", "[]", "1", "null", '{"a.b":1}', '{"":1}', deep]) {
    assertThrows(() => KeyValues.parseJson(text), SyntaxFailure);
  }
  const args = KeyValues.parseJson('{"__proto__":{"x":1},"constructor":2}');
  assertEquals(args.toString(), '{"__proto__":{"x":1},"constructor":2}');
});

/** A small generator whose run can be repeated (mulberry32). */
function random(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

Deno.test("what is written is read back the same, for any text", () => {
  const next = random(20260731);
  const pick = (alphabet: string, max: number) =>
    Array.from(
      { length: Math.floor(next() * max) },
      () => alphabet[Math.floor(next() * alphabet.length)],
    ).join("");
  for (let round = 0; round < 5000; round++) {
    const text = pick('ab,=.n o"{}:/', 24);
    const implied = next() < 0.5 ? "first" : undefined;
    let args: KeyValues;
    try {
      args = KeyValues.parse(text, implied);
    } catch (error) {
      assert(error instanceof SyntaxFailure);
      continue;
    }
    const again = KeyValues.parse(args.toString(), implied);
    assertEquals(list(again), list(args), text);
    const values: Record<string, string> = {};
    for (let n = 0; n < 4; n++) values[`k${n}`] = pick(",=no a", 8);
    assertEquals(
      list(KeyValues.parse(KeyValues.of(values).toString())),
      Object.entries(values),
    );
  }
});
