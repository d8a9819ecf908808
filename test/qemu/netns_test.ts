// The link that fault tests cut: frames pass, then vanish without a reset, then pass again.

import { assertEquals, assertStringIncludes } from "@std/assert";
import { capture, run } from "../lib/command.ts";
import { TestNet } from "../lib/netns.ts";
import { requires } from "../lib/requires.ts";

Deno.test({
  name: "test link: a connection outlives a cut, and nothing passes during it",
  ...requires("root", "ip", "socat"),
  async fn() {
    const signal = AbortSignal.timeout(20_000);
    await using net = await TestNet.create(signal);
    const server = new Deno.Command("ip", {
      args: net.inside(net.right, ["socat", "-u", "-d", "-d", "TCP-LISTEN:1000", "-"]).slice(1),
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const messages = server.stderr.pipeThrough(new TextDecoderStream()).getReader();
    let said = "";
    while (!said.includes("listening")) said += (await messages.read()).value ?? "";
    const client = new Deno.Command("ip", {
      args: net.inside(net.left, ["socat", "-u", "-", `TCP:${net.right.address}:1000`]).slice(1),
      stdin: "piped",
    }).spawn();
    const input = client.stdin.getWriter();
    const output = server.stdout.pipeThrough(new TextDecoderStream()).getReader();
    const send = (text: string) => input.write(new TextEncoder().encode(text));

    await send("before");
    assertEquals((await output.read()).value, "before");
    await net.cut(signal);
    await send("during");
    const during = output.read();
    const address = `TCP:${net.right.address}:1000,connect-timeout=0.3`;
    const connect = net.inside(net.left, ["socat", "/dev/null", address]);
    assertStringIncludes((await capture(connect, signal)).stderr, "timed out");
    await net.restore(signal);
    assertEquals((await during).value, "during");

    await input.close();
    assertEquals([(await client.status).code, (await server.status).code], [0, 0]);
    await Promise.all([messages.cancel(), output.cancel()]);
  },
});

Deno.test({
  name: "test link: nothing is left behind",
  ...requires("root", "ip"),
  async fn() {
    const signal = AbortSignal.timeout(20_000);
    const before = await run(["ip", "netns", "list"], signal);
    {
      await using net = await TestNet.create(signal);
      const during = await run(["ip", "netns", "list"], signal);
      assertEquals(during.includes(net.left.netns), true);
    }
    assertEquals(await run(["ip", "netns", "list"], signal), before);
  },
});
