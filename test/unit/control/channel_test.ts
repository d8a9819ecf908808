import { assert, assertEquals, assertRejects } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import {
  ControlChannel,
  type Handlers,
  MAX_OPEN_REQUESTS,
  type Notification,
} from "../../../src/control/channel.ts";
import { encodeMessage, MAX_MESSAGE_BYTES } from "../../../src/control/message_codec.ts";
import { chooseSeed, concat, MemoryLink, seededRandom, settle } from "../wire/memory_link.ts";

const never = new AbortController().signal;
const text = (value: string) => new TextEncoder().encode(value);

/** A connection in memory in the place of a stream. */
class MemoryStream {
  resetBy: string | undefined;
  constructor(readonly link: MemoryLink) {}
  read(buffer: Uint8Array): Promise<number | null> {
    return this.link.read(buffer);
  }
  write(chunk: Uint8Array): Promise<number> {
    return this.link.write(chunk);
  }
  closeWrite(): Promise<void> {
    return this.link.closeWrite();
  }
  reset(code: string): void {
    this.resetBy = code;
    this.link.close();
  }
}

function channels(handlers: Handlers = {}, readLimit: () => number = () => Infinity) {
  const [left, right] = MemoryLink.pair();
  left.readLimit = right.readLimit = readLimit;
  const heard: Notification[] = [];
  const sender = new ControlChannel(new MemoryStream(left), {
    side: "source",
    onNotification: (notification) => heard.push(notification),
  });
  const receiver = new ControlChannel(new MemoryStream(right), {
    side: "destination",
    handlers,
    onNotification: (notification) => heard.push(notification),
  });
  return { sender, receiver, heard, left, right };
}

/** A channel of the receiver's side against bytes that the test writes itself. */
function rawChannel(handlers: Handlers = {}) {
  const [peer, own] = MemoryLink.pair();
  const stream = new MemoryStream(own);
  const channel = new ControlChannel(stream, {
    side: "destination",
    handlers,
    onNotification: () => {},
  });
  const answers = () => {
    const written = own.written;
    const found: Record<string, unknown>[] = [];
    for (let at = 0; at < written.length;) {
      const end = at + 4 + new DataView(written.buffer).getUint32(at);
      found.push(JSON.parse(new TextDecoder().decode(written.subarray(at + 4, end))));
      at = end;
    }
    return found;
  };
  return { peer, stream, channel, answers };
}

function unit(json: string | Uint8Array): Uint8Array {
  const bytes = typeof json === "string" ? text(json) : json;
  const prefix = new Uint8Array(4);
  new DataView(prefix.buffer).setUint32(0, bytes.length);
  return concat([prefix, bytes]);
}

const HELLO = { protocol_versions: [1], agent_version: "0.1.0", features: [] };
const HELLO_REPLY = {
  protocol_version: 1,
  agent_version: "0.1.0",
  migration_id: "m-1",
  features: [],
};
const PREPARE = { nbd: "direct", reconnect_ms: 0, handover_timeout_ms: 60_000 } as const;

for (const split of ["one byte at a time", "random splits"]) {
  Deno.test(`requests get their replies, in whatever order: ${split}`, async () => {
    const random = seededRandom(chooseSeed());
    const release = Promise.withResolvers<void>();
    const { sender, receiver, heard } = channels({
      hello: async (body) => {
        await release.promise;
        return { ...HELLO_REPLY, agent_version: body.agent_version };
      },
      handover: (body) =>
        Promise.resolve({ running: body.run, resumed_at: "2025-11-03T14:07:31.482Z" }),
    }, split === "random splits" ? () => Math.floor(random() * 40) : () => 1);
    const hello = sender.request("hello", HELLO, never);
    const handover = await sender.request("handover", { run: true }, never);
    assertEquals(handover.running, true);
    await receiver.notify("warning", { code: "slow", text: "half-way" });
    await sender.notify("cancel", { reason: "because" });
    release.resolve();
    assertEquals(await hello, HELLO_REPLY);
    assertEquals(heard.toSorted((a, b) => a.name < b.name ? -1 : 1), [
      { name: "cancel", body: { reason: "because" } },
      { name: "warning", body: { code: "slow", text: "half-way" } },
    ]);
  });
}

Deno.test("a refusal arrives as the receiver's own error", async () => {
  const { sender } = channels({
    prepare: () => {
      throw new AgentError("target_too_small", "Cannot create target disk '/d/a.raw': 3 GiB free", {
        kind: "refused",
        phase: "params",
        hint: "Free space in '/d'.",
      });
    },
  });
  const error = await assertRejects(
    () => sender.request("prepare", PREPARE, never),
    AgentError,
  );
  assertEquals(error.message, "Cannot create target disk '/d/a.raw': 3 GiB free");
  assertEquals(
    [error.code, error.kind, error.side, error.phase, error.hint],
    ["target_too_small", "refused", "destination", "params", "Free space in '/d'."],
  );
  const unknown = await assertRejects(() => sender.request("finish", {}, never), AgentError);
  assertEquals([unknown.code, unknown.side], ["unknown_request", "destination"]);
});

Deno.test("a request that is given up does not disturb the next; its reply is dropped", async () => {
  const release = Promise.withResolvers<void>();
  const { sender } = channels({
    arrived: async () => {
      await release.promise;
      return {};
    },
    finish: () => Promise.resolve({}),
  });
  const cancel = new AbortController();
  const waiting = sender.request("arrived", {}, cancel.signal);
  await settle();
  cancel.abort(new AgentError("interrupted", "stopped by the operator", { kind: "cancelled" }));
  await assertRejects(() => waiting, AgentError, "stopped by the operator");
  release.resolve();
  await settle();
  assertEquals(await sender.request("finish", {}, never), {});
  await assertRejects(() => sender.request("finish", {}, cancel.signal), AgentError, "operator");
});

Deno.test("a reply without the form that it must have is the asker's error", async () => {
  const { sender } = channels({
    hello: () => Promise.resolve({ ...HELLO_REPLY, migration_id: "../../etc" }),
  });
  const error = await assertRejects(() => sender.request("hello", HELLO, never), AgentError);
  assertEquals(error.code, "bad_message");
  assert(error.message.includes("'migration_id'"), error.message);
});

Deno.test("unknown requests and bad bodies are answered with a refusal, and it goes on", async () => {
  const { peer, channel, answers } = rawChannel({
    finish: () => Promise.resolve({}),
    handover: () => Promise.reject(new TypeError("a defect")),
  });
  await peer.write(unit('{"id":1,"request":"explode","body":{}}'));
  await peer.write(unit('{"id":2,"request":"__proto__","body":{}}'));
  await peer.write(unit('{"id":3,"request":"handover","body":{"run":"yes"}}'));
  await peer.write(unit('{"id":4,"request":"handover","body":{"run":true}}'));
  await peer.write(unit('{"id":5,"request":"finish","body":{"later":1},"later":2}'));
  await settle();
  const codes = answers().toSorted((a, b) => Number(a.id) - Number(b.id))
    .map((answer) => (answer.error as { code: string } | undefined)?.code ?? answer.reply);
  assertEquals(codes, [
    "unknown_request",
    "unknown_request",
    "bad_message",
    "internal_error",
    "finish",
  ]);
  assert(!channel.signal.aborted);
});

const nested = (depth: number) => "[".repeat(depth) + "]".repeat(depth);
const byteOf = (character: string) => character.charCodeAt(0);

const VIOLATIONS: [string, Uint8Array][] = [
  ["a length of 0", new Uint8Array(4)],
  ["a length beyond the limit", Uint8Array.of(0, 4, 0, 1)],
  ["not JSON", unit("{nonsense}")],
  ["not UTF-8", unit(Uint8Array.from('{"notify":"cancel","body":{"reason":"\xff"}}', byteOf))],
  ["nested too deep", unit(`{"notify":"cancel","body":{"reason":"","later":${nested(15)}}}`)],
  ["a list", unit("[1]")],
  ["none of the four forms", unit('{"id":1}')],
  ["id 0", unit('{"id":0,"request":"finish","body":{}}')],
  ["an id that is no integer", unit('{"id":1.5,"request":"finish","body":{}}')],
  [
    "an id used twice",
    concat([
      unit('{"id":1,"request":"finish","body":{}}'),
      unit('{"id":1,"request":"finish","body":{}}'),
    ]),
  ],
  ["an answer to nothing", unit('{"id":1,"reply":"finish","body":{}}')],
  ["an unknown notification", unit('{"notify":"party","body":{}}')],
  ["a notification from the prototype", unit('{"notify":"toString","body":{}}')],
  ["a notification with a bad body", unit('{"notify":"cancel","body":{}}')],
];

for (const [name, bytes] of VIOLATIONS) {
  Deno.test(`the channel ends with bad_message: ${name}`, async () => {
    const { peer, stream, channel } = rawChannel();
    await peer.write(bytes);
    await settle();
    assertEquals((channel.signal.reason as AgentError).code, "bad_message");
    assertEquals(stream.resetBy, "bad_message");
    await assertRejects(() => channel.request("finish", {}, never), AgentError);
  });
}

Deno.test("what is nested as deep as is allowed passes", async () => {
  const { peer, channel } = rawChannel();
  await peer.write(unit(`{"notify":"cancel","body":{"reason":"","later":${nested(14)}}}`));
  await settle();
  assert(!channel.signal.aborted);
});

Deno.test("braces within strings are not depth", async () => {
  const { peer, channel, answers } = rawChannel({ finish: () => Promise.resolve({}) });
  const tricky = JSON.stringify('[[[[{{{{"\\' + "[".repeat(100));
  await peer.write(unit(`{"id":1,"request":"finish","body":{"later":${tricky}}}`));
  await settle();
  assertEquals(answers(), [{ id: 1, reply: "finish", body: {} }]);
  assert(!channel.signal.aborted);
});

Deno.test("more requests at once than allowed end the channel", async () => {
  const { peer, channel } = rawChannel({ finish: () => new Promise(() => {}) });
  for (let id = 1; id <= MAX_OPEN_REQUESTS; id++) {
    await peer.write(unit(`{"id":${id},"request":"finish","body":{}}`));
  }
  await settle();
  assert(!channel.signal.aborted);
  await peer.write(unit('{"id":100,"request":"finish","body":{}}'));
  await settle();
  assert(channel.signal.aborted);
});

Deno.test("a message that is too large is not sent", async () => {
  const { sender } = channels();
  const error = await assertRejects(
    () => sender.notify("cancel", { reason: "x".repeat(MAX_MESSAGE_BYTES) }),
    AgentError,
  );
  assertEquals([error.code, error.kind], ["message_too_large", "internal"]);
});

Deno.test("a stream cut at any byte ends the channel, and every wait in it", async () => {
  const recorded = concat([
    encodeMessage({ id: 1, reply: "hello", body: HELLO_REPLY }),
    encodeMessage({ notify: "warning", body: { code: "slow", text: "half-way" } }),
  ]);
  const firstEnd = encodeMessage({ id: 1, reply: "hello", body: HELLO_REPLY }).length;
  for (let cut = 0; cut <= recorded.length; cut++) {
    const [peer, own] = MemoryLink.pair();
    const channel = new ControlChannel(new MemoryStream(own), {
      side: "source",
      onNotification: () => {},
    });
    const hello = channel.request("hello", HELLO, never);
    const finish = channel.request("finish", {}, never);
    await peer.write(recorded.subarray(0, cut));
    await peer.closeWrite();
    const [first, second] = await Promise.allSettled([hello, finish]);
    assertEquals(first.status, cut >= firstEnd ? "fulfilled" : "rejected", `at ${cut}`);
    assertEquals(second.status, "rejected");
    const orderly = cut === 0 || cut === firstEnd || cut === recorded.length;
    const reason = channel.signal.reason as AgentError;
    assertEquals(reason.code, orderly ? "control_closed" : "bad_message", `at ${cut}`);
  }
});
