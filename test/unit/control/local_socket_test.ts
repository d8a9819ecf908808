import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import { askAgent } from "../../../src/control/local_client.ts";
import { type LocalRequest, MAX_LINE_BYTES } from "../../../src/control/local_messages.ts";
import { type LocalHandlers, LocalServer } from "../../../src/control/local_server.ts";
import { TempDir } from "../../lib/temp.ts";

const never = new AbortController().signal;

/** Handlers that note what they are asked. */
function noting(heard: unknown[], change: Partial<LocalHandlers> = {}): LocalHandlers {
  const note = (...what: unknown[]) => {
    heard.push(what);
    return Promise.resolve({ heard: heard.length });
  };
  return {
    cancel: (reason) => note("cancel", reason),
    set: (settings) => note("set", settings),
    status: () => note("status"),
    ...change,
  };
}

class Site implements AsyncDisposable {
  private constructor(readonly temp: TempDir, readonly server: LocalServer) {}

  static async create(handlers: LocalHandlers): Promise<Site> {
    const temp = await TempDir.create();
    const path = temp.file("m1.source.sock");
    return new Site(temp, await LocalServer.listen(path, { handlers, side: "source" }));
  }

  ask(
    request: LocalRequest,
    change: { signal?: AbortSignal; timeoutMs?: number } = {},
  ): Promise<Record<string, unknown>> {
    return askAgent(this.server.path, { request, side: "source", signal: never, ...change });
  }

  /** What is answered to those bytes, up to the end. */
  async say(bytes: Uint8Array | string): Promise<string> {
    using conn = await Deno.connect({ transport: "unix", path: this.server.path });
    const all = typeof bytes === "string" ? new TextEncoder().encode(bytes) : bytes;
    for (let at = 0; at < all.length;) at += await conn.write(all.subarray(at));
    await conn.closeWrite();
    return await new Response(conn.readable).text();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.server[Symbol.asyncDispose]();
    await this.temp[Symbol.asyncDispose]();
  }
}

Deno.test("every command reaches its handler, and its answer comes back", async () => {
  const heard: unknown[] = [];
  await using site = await Site.create(noting(heard));
  const settings = { disk_bandwidth: 0, ram_bandwidth: 5_000_000, downtime_limit_ms: null };
  assertEquals(await site.ask({ command: "cancel", reason: "wrong\nguest" }), { heard: 1 });
  assertEquals(await site.ask({ command: "set", ...settings }), { heard: 2 });
  assertEquals(await site.ask({ command: "status" }), { heard: 3 });
  assertEquals(heard, [["cancel", "wrong guest"], ["set", settings], ["status"]]);
});

Deno.test("what a handler refuses is refused with its reason", async () => {
  const refusal = new AgentError("too_late", "The guest has gone over", {
    kind: "refused",
    hint: "It runs at the destination.",
  });
  await using site = await Site.create(noting([], { cancel: () => Promise.reject(refusal) }));
  const error = await assertRejects(() => site.ask({ command: "cancel", reason: "" }), AgentError);
  assertEquals(
    [error.code, error.kind, error.message, error.hint, error.side],
    ["too_late", "refused", "The guest has gone over", "It runs at the destination.", "source"],
  );
});

Deno.test("only this user may connect, and the umask is as it was", async () => {
  const before = Deno.umask();
  await using site = await Site.create(noting([]));
  assertEquals(Deno.umask(), before);
  assertEquals(((await Deno.stat(site.server.path)).mode ?? 0) & 0o777, 0o600);
});

const SET = { command: "set", disk_bandwidth: null, ram_bandwidth: null, downtime_limit_ms: null };
const WRONG: Record<string, [string | Uint8Array, RegExp]> = {
  "no JSON": ["status\n", /this command is not JSON/],
  "an unknown command": ['{"command":"halt"}\n', /this command is wrong in 'command'/],
  "a field too many": ['{"command":"status","x":1}\n', /this command is wrong in 'x'/],
  "a negative rate": [JSON.stringify({ ...SET, ram_bandwidth: -1 }) + "\n", /'ram_bandwidth'/],
  "no pause at all": [JSON.stringify({ ...SET, downtime_limit_ms: 0 }) + "\n", /downtime_limit/],
  "a line without its end": ['{"command":"status"}', /a line was cut off/],
  "no UTF-8": [Uint8Array.of(0x22, 0xff, 0x22, 0x0a), /a line is not UTF-8/],
  "a line too long": ["x".repeat(MAX_LINE_BYTES), /a line has more than 262144 bytes/],
};

for (const [what, [bytes, expected]] of Object.entries(WRONG)) {
  Deno.test(`answered with an error: ${what}`, async () => {
    const heard: unknown[] = [];
    await using site = await Site.create(noting(heard));
    const { error } = JSON.parse(await site.say(bytes));
    assertEquals([error.code, error.kind], ["bad_local_message", "usage"]);
    assertMatch(error.message, expected);
    assertEquals(heard, []);
    assertEquals(await site.ask({ command: "status" }), { heard: 1 });
  });
}

Deno.test("a line may come in pieces; who says nothing hears nothing", async () => {
  await using site = await Site.create(noting([]));
  assertEquals(await site.say(""), "");
  using conn = await Deno.connect({ transport: "unix", path: site.server.path });
  for (const byte of new TextEncoder().encode('{"command":"status"}\n')) {
    await conn.write(Uint8Array.of(byte));
  }
  assertEquals(await new Response(conn.readable).text(), '{"ok":{"heard":1}}\n');
});

Deno.test("who connects and waits does not keep others out for good, nor the agent from ending", async () => {
  await using site = await Site.create(noting([]));
  const path = site.server.path;
  const idle = await Promise.all(
    Array.from({ length: 16 }, () => Deno.connect({ transport: "unix", path })),
  );
  await assertRejects(() => site.ask({ command: "status" }), AgentError);
  idle.pop()!.close();
  idle.pop()!.close();
  let answer: Record<string, unknown> | null = null;
  // The server hears of the two ends in its own time.
  while (answer === null) answer = await site.ask({ command: "status" }).catch(() => null);
  assert("heard" in answer);
  await site.server[Symbol.asyncDispose]();
  for (const conn of idle) conn.close();
  await assertRejects(() => Deno.lstat(path), Deno.errors.NotFound);
});

Deno.test("an agent that ends lets go of a handler that does not", async () => {
  const asked = Promise.withResolvers<void>();
  const status = () => {
    asked.resolve();
    return new Promise<never>(() => {});
  };
  await using site = await Site.create(noting([], { status }));
  const answer = site.ask({ command: "status" });
  const failed = assertRejects(() => answer, AgentError);
  await asked.promise;
  await site.server[Symbol.asyncDispose]();
  await failed;
});

Deno.test("an agent that does not answer is waited for as long as was said", async () => {
  await using site = await Site.create(noting([], { status: () => new Promise(() => {}) }));
  const late = await assertRejects(
    () => site.ask({ command: "status" }, { timeoutMs: 1 }),
    AgentError,
  );
  assertEquals([late.code, late.kind], ["agent_silent", "timeout"]);
  const signal = AbortSignal.abort(new AgentError("interrupted", "Ctrl-C", { kind: "cancelled" }));
  const stopped = await assertRejects(
    () => site.ask({ command: "status" }, { signal }),
    AgentError,
  );
  assertEquals(stopped.code, "interrupted");
});

Deno.test("a dead agent's socket cannot be reached, and is replaced by the next", async () => {
  await using temp = await TempDir.create();
  const path = temp.file("m1.source.sock");
  const listener = Deno.listen({ transport: "unix", path: temp.file("old") });
  await Deno.link(temp.file("old"), path); // stays, as it does after a kill
  listener.close();
  assert((await Deno.lstat(path)).isSocket);
  const request = { command: "status" } as const;
  const ask = () => askAgent(path, { request, side: "source", signal: never });
  const error = await assertRejects(ask, AgentError);
  assertEquals([error.code, error.kind], ["agent_unreachable", "link"]);
  await using _ = await LocalServer.listen(path, { handlers: noting([]), side: "source" });
  assertEquals(await ask(), { heard: 1 });
});

Deno.test("what answers, or is no socket, is not replaced", async () => {
  await using site = await Site.create(noting([]));
  await Deno.writeTextFile(site.temp.file("file"), "precious");
  for (const path of [site.server.path, site.temp.file("file")]) {
    const listen = () => LocalServer.listen(path, { handlers: noting([]), side: "source" });
    const error = await assertRejects(listen, AgentError);
    assertEquals([error.code, error.kind], ["control_socket_taken", "refused"]);
  }
  assertEquals(await Deno.readTextFile(site.temp.file("file")), "precious");
  assertEquals(await site.ask({ command: "status" }), { heard: 1 });
  const long = site.temp.file("x".repeat(120));
  const listen = () => LocalServer.listen(long, { handlers: noting([]), side: "source" });
  assertEquals((await assertRejects(listen, AgentError)).code, "control_socket_failed");
});
