import { assert, assertEquals, assertInstanceOf, assertRejects } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import { QmpClient, QmpCommandError } from "../../../src/qmp/client.ts";
import { never, NO_ANSWER, openScripted, ScriptedError, ScriptedLink } from "./scripted_qmp.ts";

Deno.test("open: greeting, version, capabilities negotiated before anything else", async () => {
  const link = new ScriptedLink();
  await using client = await openScripted(link);
  assertEquals(client.version, { major: 7, minor: 2, micro: 4, package: "Debian" });
  assertEquals(link.commands.map(({ command }) => command), ["qmp_capabilities"]);
});

Deno.test("open: a socket that says nothing is another program's", async () => {
  const link = new ScriptedLink();
  // The limit's own signal, without its seconds.
  const timeout = AbortSignal.timeout;
  AbortSignal.timeout = () => AbortSignal.abort(new DOMException("late", "TimeoutError"));
  try {
    const opening = QmpClient.open("/vm.sock", link, { signal: never });
    const error = await assertRejects(() => opening, AgentError, "No QMP greeting from '/vm.sock'");
    assertEquals(error.code, "qmp_unreachable");
    assert(link.closed);
  } finally {
    AbortSignal.timeout = timeout;
  }
});

Deno.test("open: cancelling it, or the end of the connection, closes the link", async () => {
  const cancelled = new ScriptedLink();
  const opening = QmpClient.open("/x", cancelled, { signal: AbortSignal.abort(new Error("stop")) });
  await assertRejects(() => opening, Error, "stop");
  assert(cancelled.closed);
  const ended = new ScriptedLink();
  ended.end();
  const error = await assertRejects(
    () => QmpClient.open("/x", ended, { signal: never }),
    AgentError,
  );
  assertEquals(error.code, "qmp_lost");
});

Deno.test("connect: a path where nothing listens is named", async () => {
  const path = "/nonexistent/qmp.sock";
  const connecting = QmpClient.connect(path, { signal: never });
  const error = await assertRejects(() => connecting, AgentError, path);
  assertEquals(error.code, "qmp_unreachable");
});

Deno.test("answers find their commands by id, in whatever order they come", async () => {
  const link = new ScriptedLink({ slow: () => NO_ANSWER });
  await using client = await openScripted(link);
  const first = client.execute("slow", { n: 1 });
  const second = client.execute("slow", { n: 2 });
  await client.execute("query-status"); // both have been sent before this
  link.say({ return: "stray", id: 99 });
  link.say({ return: "no id" });
  link.say({ return: "two", id: 3 });
  link.say({ return: "one", id: 2 });
  assertEquals(await Promise.all([first, second]), ["one", "two"]);
});

Deno.test("a refusal keeps QMP's error class, the command and the words", async () => {
  const link = new ScriptedLink({
    cont: () => {
      throw new ScriptedError("not now", "DeviceNotFound");
    },
  });
  await using client = await openScripted(link);
  const error = await assertRejects(() => client.execute("cont"), QmpCommandError);
  assertEquals([error.errorClass, error.command], ["DeviceNotFound", "cont"]);
  assertEquals(error.message, "QEMU refused 'cont': not now");
});

Deno.test("a link that takes a few bytes at a time gets whole messages", async () => {
  const link = new ScriptedLink({ "*": (_, command) => command });
  link.writeLimit = 3;
  await using client = await openScripted(link);
  const names = ["a", "b", "c"];
  assertEquals(await Promise.all(names.map((name) => client.execute(name))), names);
});

Deno.test("cancelling ends the wait, not the connection; the late answer is nobody's", async () => {
  const link = new ScriptedLink({ slow: () => NO_ANSWER });
  await using client = await openScripted(link);
  const controller = new AbortController();
  const waiting = client.execute("slow", {}, { signal: controller.signal });
  await client.execute("query-status");
  controller.abort(new Error("enough"));
  await assertRejects(() => waiting, Error, "enough");
  link.say({ error: { class: "GenericError", desc: "late" }, id: 2 });
  await client.execute("query-status");
});

Deno.test("every subscriber gets its events, in order, from the moment it subscribed", async () => {
  const link = new ScriptedLink();
  await using client = await openScripted(link);
  link.event("STOP");
  await client.execute("query-status");
  using stops = client.subscribe("STOP");
  using both = client.subscribe("STOP", "RESUME");
  using all = client.subscribe();
  for (const name of ["RESUME", "STOP", "OTHER"]) link.event(name, { name });
  const next = async (from: typeof all) => (await from.next(never)).event;
  assertEquals(await next(stops), "STOP");
  assertEquals([await next(both), await next(both)], ["RESUME", "STOP"]);
  assertEquals([await next(all), await next(all), await next(all)], ["RESUME", "STOP", "OTHER"]);
});

Deno.test("next: drops what does not match; knows QEMU's time of the newest event", async () => {
  const link = new ScriptedLink();
  await using client = await openScripted(link);
  using events = client.subscribe("MIGRATION");
  assertEquals(events.lastSeenMs, undefined);
  for (const status of ["setup", "device", "completed"]) link.event("MIGRATION", { status });
  const event = await events.next(never, ({ data }) => data.status === "completed");
  assertEquals(event.timestampMs, 100_250.5);
  assertEquals(events.lastSeenMs, 100_250.5);
});

Deno.test("the end of the connection fails every wait with one reason", async () => {
  const link = new ScriptedLink({ slow: () => NO_ANSWER });
  await using client = await openScripted(link);
  using events = client.subscribe("STOP");
  link.event("STOP");
  const command = client.execute("slow");
  await client.execute("query-status");
  link.end();
  const error = await assertRejects(() => command, AgentError, "QEMU closed the QMP connection");
  assertEquals(error.code, "qmp_lost");
  assertEquals((await events.next(never)).event, "STOP", "what had come is still given");
  await assertRejects(() => events.next(never), AgentError, "QEMU closed");
  await assertRejects(() => client.execute("cont"), AgentError, "QEMU closed");
  assert(client.ended.aborted);
  using late = client.subscribe("STOP");
  await assertRejects(() => late.next(never), AgentError, "QEMU closed");
});

Deno.test("a line that is no message ends the connection", async () => {
  const link = new ScriptedLink({ slow: () => NO_ANSWER });
  await using client = await openScripted(link);
  const command = client.execute("slow");
  link.say([] as unknown as Record<string, never>);
  await assertRejects(() => command, AgentError, "is not an object");
});

Deno.test("close: waits fail, the link is closed once, and closing again is harmless", async () => {
  const link = new ScriptedLink({ slow: () => NO_ANSWER });
  const client = await openScripted(link);
  const command = client.execute("slow");
  command.catch(() => {});
  await client.close();
  await client.close();
  assertInstanceOf(await command.catch((error) => error), AgentError);
  assert(link.closed);
});

Deno.test("a command that cannot be written fails after QEMU's last words were read", async () => {
  const link = new ScriptedLink();
  const client = await openScripted(link);
  using events = client.subscribe("SHUTDOWN");
  link.closed = true; // writes fail; what was said before is there still
  let failed = false;
  const command = client.execute("query-status").finally(() => failed = true);
  command.catch(() => {});
  await new Promise((resolve) => setTimeout(resolve));
  assert(!failed && !client.ended.aborted);
  link.event("SHUTDOWN");
  link.end();
  assertEquals((await assertRejects(() => command, AgentError)).code, "qmp_lost");
  assert(client.ended.aborted);
  assertEquals((await events.next(never)).event, "SHUTDOWN");
});
