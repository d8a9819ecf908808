// The hold on a domain's device model, whose holder outlives the agent: what it does before it lets go.

import { assertEquals, assertRejects } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import { holdForAgent, releaseHold, takeHold } from "../../../src/xen/hold.ts";
import { TempDir } from "../../lib/temp.ts";
import { type Answer, never, ScriptedError, ScriptedLink } from "../qmp/scripted_qmp.ts";

/** A device model with a QMP socket, for one client. */
async function startDeviceModel(path: string, answers: Record<string, Answer>) {
  const link = new ScriptedLink(answers);
  using listener = Deno.listen({ transport: "unix", path });
  const conn = await listener.accept();
  link.greet();
  link.readable.pipeTo(conn.writable).catch(() => {}); // the holder has closed it
  for await (const bytes of conn.readable) await link.write(bytes);
  return link.names;
}

async function connectedPair(path: string): Promise<[Deno.UnixConn, Deno.UnixConn]> {
  using listener = Deno.listen({ transport: "unix", path });
  return await Promise.all([Deno.connect({ transport: "unix", path }), listener.accept()]);
}

/** One mirror that goes on until it is cancelled. */
function mirroring(): Record<string, Answer> {
  let status = "ready";
  return {
    "query-jobs": () => [{ id: "migrate-agent-0", status }, { id: "theirs", status: "running" }],
    "query-yank": () => [
      { type: "chardev", id: "serial0" },
      { type: "block-node", "node-name": "migrate-agent-nbd-0" },
    ],
    "block-job-cancel": () => {
      status = "concluded";
      throw new ScriptedError("it was cut off");
    },
  };
}

/** First of all the connections: until then QEMU may answer nothing that is asked in band. */
const ENDED = ["query-yank", "yank", "query-jobs", "query-jobs", "block-job-cancel", "query-jobs"];

/** What the device model of these answers is asked when the agent lets go, or dies. */
async function askedAfter(how: "release" | "death", answers: Record<string, Answer>) {
  await using temp = await TempDir.create();
  const path = temp.file("qmp");
  const asked = startDeviceModel(path, answers);
  const [agent, holder] = await connectedPair(temp.file("hold"));
  const holding = holdForAgent(holder);
  await takeHold(agent, { path, signal: never });
  if (how === "release") await releaseHold(agent, never);
  agent.close();
  await holding;
  return await asked;
}

Deno.test("hold: the mirrors of an agent that dies end before it is let go", async () => {
  assertEquals(await askedAfter("death", mirroring()), ENDED);
  const ended = { "query-yank": () => [], "query-jobs": () => [] };
  assertEquals(await askedAfter("death", ended), ["query-yank", "query-jobs"]);
});

Deno.test("hold: an agent that lets go has ended its mirrors, and the guest waits", async () => {
  assertEquals(await askedAfter("release", mirroring()), []);
});

Deno.test("hold: a device model that cannot be had, and an agent that wants none", async () => {
  await using temp = await TempDir.create();
  const path = temp.file("qmp");
  const [agent, holder] = await connectedPair(temp.file("hold"));
  const holding = holdForAgent(holder);
  const error = await assertRejects(() => takeHold(agent, { path, signal: never }), AgentError);
  assertEquals(error.code, "device_model_busy");
  agent.close();
  await holding;

  const [other, idle] = await connectedPair(temp.file("idle"));
  other.close();
  await holdForAgent(idle);
});
