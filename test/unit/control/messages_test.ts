import { assert, assertEquals, assertThrows } from "@std/assert";
import * as v from "valibot";
import { AgentError } from "../../../src/base/errors.ts";
import { errorFromBody, errorToBody } from "../../../src/control/error_body.ts";
import { decodeMessage, encodeMessage } from "../../../src/control/message_codec.ts";
import {
  chooseVersion,
  cleanProse,
  ErrorSchema,
  NOTIFICATIONS,
  REQUESTS,
} from "../../../src/control/messages.ts";
import { ParamsSchema } from "../../../src/guest/params.ts";
import { readSpecBlocks, specHex, specJson } from "../wire/spec_vectors.ts";

const SCHEMAS: Record<string, v.GenericSchema> = { refusal: ErrorSchema };
for (const [name, { body, reply }] of Object.entries(REQUESTS)) {
  SCHEMAS[`request:${name}`] = body;
  SCHEMAS[`reply:${name}`] = reply;
}
for (const [name, body] of Object.entries(NOTIFICATIONS)) SCHEMAS[`notify:${name}`] = body;

Deno.test("the specification has an example of every message, and of no other", () => {
  const names = readSpecBlocks().filter((block) => block.mark === "message").map((b) => b.name);
  assertEquals(names.toSorted(), Object.keys(SCHEMAS).toSorted());
});

for (const [name, schema] of Object.entries(SCHEMAS)) {
  Deno.test(`the specification's ${name} has the form that the code checks`, () => {
    const example = specJson("message", name) as Record<string, unknown>;
    const [form, message] = name.split(":");
    if (message) assertEquals(example[form!], message);
    const decoded = decodeMessage(encodeMessage(example as never).subarray(4));
    assertEquals(decoded as unknown, example);
    const body = (name === "refusal" ? example.error : example.body) as Record<string, unknown>;
    assertEquals(v.parse(schema, body) as unknown, body);
    // Fields that are not known are dropped, at every level that has fields.
    assertEquals(v.parse(schema, { ...body, later: { deep: [1] } }) as unknown, body);
    // Every field is needed, and none may be another thing.
    for (const field of Object.keys(body)) {
      const { [field]: _, ...rest } = body;
      assert(!v.is(schema, rest), `'${field}' may be missing`);
      assert(!v.is(schema, { ...body, [field]: Symbol() }), `'${field}' may be anything`);
    }
  });
}

Deno.test("the specification's bytes of a message are what the codec writes and reads", () => {
  const unit = specHex("control_unit");
  const message = specJson("vector", "control_unit");
  assertEquals(encodeMessage(message as never), unit);
  assertEquals(decodeMessage(unit.subarray(4)) as unknown, message);
});

Deno.test("the specification's params document has the form that the guest code checks", () => {
  const document = specJson("document", "params");
  assertEquals(v.parse(ParamsSchema, document) as unknown, document);
});

const example = (name: string) =>
  structuredClone((specJson("message", name) as { body: Record<string, never> }).body);
const BAD_BODIES: [string, string, (body: Record<string, unknown>) => void][] = [
  ["no version", "request:hello", (b) => b.protocol_versions = []],
  ["version 0", "request:hello", (b) => b.protocol_versions = [0]],
  ["17 versions", "request:hello", (b) => b.protocol_versions = Array(17).fill(1)],
  ["a long version", "request:hello", (b) => b.agent_version = "1".repeat(65)],
  ["65 features", "request:hello", (b) => b.features = Array(65).fill("f")],
  ["an id with a slash", "reply:hello", (b) => b.migration_id = "../x"],
  ["a hash in capitals", "request:plan", (b) => b.params_sha256 = "A".repeat(64)],
  ["a path with a NUL", "reply:plan", (b) => b.qemu_binary = "/usr\0"],
  ["a long path", "reply:plan", (b) => b.qemu_binary = "/" + "x".repeat(4096)],
  ["an unknown action", "reply:plan", (b) => b.disks = [{ name: "a", action: "burn" }]],
  ["257 disks", "reply:plan", (b) => b.disks = Array(257).fill((b.disks as never[])[0])],
  ["port 0", "reply:prepare", (b) => b.nbd = { host: "h", port: 0 }],
  ["port 65536", "reply:prepare", (b) => b.nbd = { host: "h", port: 65536 }],
  ["a host with a space", "reply:prepare", (b) => b.nbd = { host: "h x", port: 1 }],
  ["process 0", "reply:prepare", (b) => b.pid = 0],
  ["half a process", "reply:prepare", (b) => b.pid = 1.5],
  ["another transport", "request:prepare", (b) => b.nbd = "pigeon"],
  ["a text for a truth", "request:handover", (b) => b.run = "yes"],
  ["a time that is none", "reply:handover", (b) => b.resumed_at = "yesterday"],
  ["a code with a space", "notify:warning", (b) => b.code = "a b"],
  ["an unknown kind", "notify:failed", (b) => b.kind = "fatal"],
  ["an unknown side", "notify:failed", (b) => b.side = "middle"],
];

for (const [what, name, spoil] of BAD_BODIES) {
  Deno.test(`refused in ${name}: ${what}`, () => {
    const body = example(name);
    assert(v.is(SCHEMAS[name]!, body));
    spoil(body);
    assert(!v.is(SCHEMAS[name]!, body));
  });
}

Deno.test("the highest common version is chosen, and none is refused with both sides' versions", () => {
  assertEquals(chooseVersion([1, 2, 5], [1, 2, 3]), 2);
  const error = assertThrows(() => chooseVersion([3, 4], [1, 2]), AgentError);
  assertEquals([error.code, error.kind], ["no_common_version", "refused"]);
  assertEquals(error.message, "The sender speaks protocol version 3, 4, the receiver 1, 2");
});

Deno.test("an error crosses with code, kind, side, phase and hint, its text made harmless", () => {
  const error = new AgentError("disk_full", "Cannot create '/d/a':\n\x1b[31mno \u202espace", {
    kind: "refused",
    phase: "params",
    hint: "Free some.",
  });
  const body = v.parse(ErrorSchema, JSON.parse(JSON.stringify(errorToBody(error, "destination"))));
  const arrived = errorFromBody(body, "destination");
  assertEquals(arrived.message, "Cannot create '/d/a': [31mno  space");
  assertEquals(
    [arrived.code, arrived.kind, arrived.side, arrived.phase, arrived.hint],
    ["disk_full", "refused", "destination", "params", "Free some."],
  );
  const hostile = { ...body, message: "x".repeat(100_000) + "\x07", side: null, phase: null };
  const cut = errorFromBody(v.parse(ErrorSchema, hostile), "source");
  assertEquals([cut.message.length, cut.side, cut.phase], [2000, "source", undefined]);
});

Deno.test("prose is cut to whole characters", () => {
  assertEquals(cleanProse("a\u0000\u001bb\u2028c\u200b", 10), "a b c");
  assertEquals(cleanProse("abcdef", 4), "abc…");
  assert(cleanProse("ab😀cd", 4).isWellFormed());
});
