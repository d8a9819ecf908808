import { assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import { getAvailablePort } from "@std/net";
import { AgentError } from "../../../src/base/errors.ts";
import { formatAddress } from "../../../src/link/address.ts";
import { dial } from "../../../src/link/dial.ts";
import { listen } from "../../../src/link/listen.ts";

const never = new AbortController().signal;
const loopback = { host: "127.0.0.1", port: 0 };

Deno.test("dial reaches a listener, and both have their say", async () => {
  using listener = listen(loopback);
  const accepting = listener.accept(never);
  using there = await dial(listener.address, { signal: never, timeoutMs: 5000 });
  using here = await accepting;
  await there.write(Uint8Array.of(7));
  const buffer = new Uint8Array(1);
  await here.read(buffer);
  assertEquals(buffer[0], 7);
});

Deno.test("dial names the address that nobody listens on", async () => {
  const address = { host: "127.0.0.1", port: getAvailablePort() };
  const error = await assertRejects(
    () => dial(address, { signal: never, timeoutMs: 5000 }),
    AgentError,
  );
  assertEquals([error.code, error.kind], ["cannot_connect", "link"]);
  assertStringIncludes(error.message, `'${formatAddress(address)}'`);
});

Deno.test("dial gives up when it is told to", async () => {
  using listener = listen(loopback);
  const cancel = new AbortController();
  const dialling = dial(listener.address, { signal: cancel.signal, timeoutMs: 5000 });
  cancel.abort(new AgentError("interrupted", "stopped", { kind: "cancelled" }));
  await assertRejects(() => dialling, AgentError, "stopped");
  await assertRejects(
    () => dial(listener.address, { signal: cancel.signal, timeoutMs: 5000 }),
    AgentError,
    "stopped",
  );
});

Deno.test("a cancelled accept loses no connection", async () => {
  using listener = listen(loopback);
  const cancel = new AbortController();
  const waiting = listener.accept(cancel.signal);
  cancel.abort(new AgentError("interrupted", "stopped", { kind: "cancelled" }));
  await assertRejects(() => waiting, AgentError, "stopped");
  using there = await dial(listener.address, { signal: never, timeoutMs: 5000 });
  using here = await listener.accept(never);
  assertEquals(here.remoteAddr, there.localAddr);
});

Deno.test("a listener that is closed ends the accept under way", async () => {
  const listener = listen(loopback);
  const waiting = listener.accept(never);
  listener.close();
  const error = await assertRejects(() => waiting, AgentError);
  assertEquals(error.code, "cannot_accept");
});

Deno.test("listen names the address that is taken", () => {
  using listener = listen(loopback);
  const error = assertThrows(() => listen(listener.address), AgentError);
  assertEquals(error.code, "cannot_listen");
  assertStringIncludes(error.message, `'${formatAddress(listener.address)}'`);
});
