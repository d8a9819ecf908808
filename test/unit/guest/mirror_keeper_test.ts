// When a mirror job that has stopped may go on, and when it must not. QEMU is a script here and the
// connections are a set; the real ones are in test/qemu/mirror_reconnect_test.ts.

import { assertEquals, assertRejects } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import { MirrorKeeper } from "../../../src/guest/mirror_keeper.ts";
import { waitConnected } from "../../../src/guest/nbd_connections.ts";
import { never, openScripted, ScriptedError, ScriptedLink } from "../qmp/scripted_qmp.ts";

const JOBS = ["migrate-agent-0", "migrate-agent-1"];
const DISKS = new Map([[JOBS[0]!, "system"], [JOBS[1]!, "data"]]);

/** Two running jobs and their connections; `log` has what was done, in order. */
async function open() {
  const log: string[] = [];
  const status = new Map(JOBS.map((job) => [job, "running"]));
  let ioStatus = "ok";
  const change =
    (command: string, from: string, to: string) => ({ device }: { device?: unknown }) => {
      log.push(command);
      const job = String(device);
      if (status.get(job) !== from) {
        throw new ScriptedError("Job is already paused, or was not paused");
      }
      status.set(job, to);
    };
  const link = new ScriptedLink({
    "block-job-pause": change("pause", "running", "paused"),
    "block-job-resume": change("resume", "paused", "running"),
    "query-block-jobs": () =>
      [...status].map(([device, now]) => ({ device, status: now, "io-status": ioStatus })),
  });
  const qmp = await openScripted(link);
  const connections = {
    up: new Set(["a", "b"]),
    list: () => Promise.resolve(new Set(connections.up)),
    sever() {
      if (connections.up.size > 0) log.push("sever");
      connections.up.clear();
      return Promise.resolve();
    },
  };
  const keeper = new MirrorKeeper(qmp, { disks: DISKS, connections });
  return {
    keeper,
    connections,
    log,
    status,
    /** QEMU stops a job at an error. */
    fail(job: string, io = "failed") {
      ioStatus = io;
      status.set(job, "paused");
      link.event("BLOCK_JOB_ERROR", { device: job, operation: "write", action: "stop" });
    },
    async [Symbol.asyncDispose]() {
      keeper[Symbol.dispose]();
      await qmp.close();
    },
  };
}

function aborted(signal: AbortSignal): Promise<AgentError> {
  return new Promise((done) => {
    if (signal.aborted) done(signal.reason);
    signal.addEventListener("abort", () => done(signal.reason), { once: true });
  });
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((done) => setTimeout(done, 1));
}

Deno.test("suspend: connections are ended before QEMU is asked for anything, then the jobs stop", async () => {
  await using all = await open();
  await all.keeper.begin();
  all.status.set(JOBS[1]!, "paused"); // by its own error: QEMU refuses to pause it again
  await all.keeper.suspend();
  assertEquals(all.log, ["sever", "pause", "pause"]);
  assertEquals([...all.status.values()], ["paused", "paused"]);
});

Deno.test("an error while suspended lets no job go on; resume does, over new connections", async () => {
  await using all = await open();
  await all.keeper.begin();
  await all.keeper.suspend();
  all.fail(JOBS[0]!);
  all.connections.up = new Set(["c"]);
  await all.keeper.resume(never);
  assertEquals(all.log, ["sever", "pause", "pause", "resume", "resume"]);
  assertEquals(all.keeper.lost.aborted, false);
});

Deno.test("resume waits for the connection of a job that had something on its way", async () => {
  await using all = await open();
  await all.keeper.begin();
  all.fail(JOBS[0]!);
  await all.keeper.suspend();
  let resumed = false;
  const resuming = all.keeper.resume(never).then(() => resumed = true);
  await until(() => [...all.status.values()].every((now) => now === "running"));
  await new Promise((done) => setTimeout(done, 300));
  assertEquals(resumed, false);
  all.connections.up = new Set(["c"]);
  await resuming;
});

Deno.test("a job whose connection is not there yet is tried again", async () => {
  await using all = await open();
  await all.keeper.begin();
  await all.keeper.suspend();
  const resuming = all.keeper.resume(never);
  await until(() => all.status.get(JOBS[1]!) === "running");
  all.fail(JOBS[1]!);
  await until(() => all.status.get(JOBS[1]!) === "running");
  all.connections.up = new Set(["c"]);
  await resuming;
  assertEquals(all.keeper.lost.aborted, false);
});

Deno.test("a connection that is gone: no job goes on before the next resume", async () => {
  await using all = await open();
  await all.keeper.begin();
  all.connections.up.delete("a");
  all.fail(JOBS[0]!);
  const error = await aborted(all.keeper.lost);
  assertEquals([error.code, error.kind], ["mirror_lost", "link"]);
  assertEquals(all.log, []);
});

Deno.test("one that was made and lost since the last resume counts as gone", async () => {
  await using all = await open();
  await all.keeper.begin();
  await all.keeper.suspend();
  all.connections.up = new Set(["c"]);
  await all.keeper.resume(never);
  all.log.length = 0;
  all.connections.up.clear();
  all.fail(JOBS[0]!);
  assertEquals((await aborted(all.keeper.lost)).code, "mirror_lost");
  assertEquals(all.log, []);
});

Deno.test("a full disk at the destination is told at once, with the disk's name", async () => {
  await using all = await open();
  await all.keeper.begin();
  all.fail(JOBS[1]!, "nospace");
  const error = await aborted(all.keeper.lost);
  assertEquals(error.code, "mirror_failed");
  assertEquals(error.message.includes("'data' stopped: no space left"), true, error.message);
});

Deno.test("connections that cannot be seen are a reason not to begin", async () => {
  await using all = await open();
  all.connections.up.delete("b");
  const error = await assertRejects(() => all.keeper.begin(), AgentError);
  assertEquals(error.code, "cannot_reconnect");
});

Deno.test("an attempt to connect that is cancelled is ended from outside, and its end awaited", async () => {
  const cancel = new AbortController();
  const adding = Promise.withResolvers<void>();
  let severed = 0;
  const connections = {
    list: () => Promise.resolve(new Set<string>()),
    sever() {
      if (++severed === 2) adding.reject(new Error("QEMU gave up"));
      return Promise.resolve();
    },
  };
  const what = "for disk 'a'";
  const waiting = waitConnected(adding.promise, { what, connections, signal: cancel.signal });
  cancel.abort(new Error("enough"));
  await assertRejects(() => waiting, Error, "enough");
  assertEquals(severed, 2);
});

Deno.test("what QEMU says about a connection that it was refused is passed on", async () => {
  const adding = Promise.reject(new Error("Connection refused"));
  const options = { what: "for disk 'a'", connections: undefined, signal: never };
  await assertRejects(() => waitConnected(adding, options), Error, "Connection refused");
});
