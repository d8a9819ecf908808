// What is asked of QEMU, in which order, and with which arguments: the traps of a mirrored migration.
// QEMU is a script here; that the real one does as the scripts say is shown in test/qemu.

import { assert, assertEquals, assertRejects } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import { Exports } from "../../../src/guest/exports.ts";
import type { QemuFeatures } from "../../../src/guest/features.ts";
import { MirrorSet } from "../../../src/guest/mirror.ts";
import { IncomingMigration, OutgoingMigration } from "../../../src/guest/ram.ts";
import {
  type Answer,
  never,
  openScripted,
  ScriptedError,
  ScriptedLink,
} from "../qmp/scripted_qmp.ts";
import { makeDisk } from "./command_line/fixtures.ts";

const CAPABILITIES = [
  ...["events", "return-path", "pause-before-switchover"],
  ...["late-block-activate", "auto-converge"],
];
const FEATURES: QemuFeatures = {
  commands: new Set(["yank"]),
  capabilities: new Set(CAPABILITIES),
  psk: false,
};
const NAMES = ["a", "b"];

function argsOf(link: ScriptedLink, name: string) {
  return link.commands.filter(({ command }) => command === name).map(({ args }) => args);
}

/** Two mirrors against a QEMU that does what it is told, but for `answers`. */
async function startMirrors(
  answers: Record<string, Answer> = {},
  options: { speed?: number; features?: QemuFeatures } = {},
) {
  const jobs = new Map<string, string>();
  const link: ScriptedLink = new ScriptedLink({
    "blockdev-mirror": ({ "job-id": id }) => void jobs.set(String(id), "running"),
    "query-jobs": () => [...jobs].map(([id, status]) => ({ id, type: "mirror", status })),
    "query-block-jobs": () => [...jobs.keys()].map((device) => ({ device, offset: 5, len: 9 })),
    "block-job-cancel": ({ device, force }) => {
      jobs.set(String(device), "concluded");
      if (force) link.event("JOB_STATUS_CHANGE", { id: device, status: "concluded" });
      else link.event("BLOCK_JOB_COMPLETED", { device, len: 9, offset: 9 });
    },
    "job-dismiss": ({ id }) => void jobs.delete(String(id)),
    ...answers,
  });
  const qmp = await openScripted(link);
  const mirrors = new MirrorSet(qmp, {
    tlsCreds: null,
    targets: NAMES.map((name) => ({
      disk: makeDisk({ name, node_name: `node-${name}` }),
      nbd: { type: "inet", host: "127.0.0.1", port: 10809 },
      export: `disk-${name}`,
    })),
    speedBytesPerS: options.speed ?? 0,
    reconnectMs: 0,
    features: options.features ?? FEATURES,
  });
  await mirrors.start(never);
  return { link, qmp, mirrors, jobs };
}

Deno.test("mirrors: one node and one job a disk, fine-grained, thin, kept until dismissed", async () => {
  const { link, qmp } = await startMirrors();
  await using _ = qmp;
  assertEquals(argsOf(link, "blockdev-add").map((args) => args.export), ["disk-a", "disk-b"]);
  const [node] = argsOf(link, "blockdev-add");
  assertEquals([node?.discard, node?.["detect-zeroes"]], ["unmap", "unmap"]);
  const [job] = argsOf(link, "blockdev-mirror");
  assertEquals([job?.device, job?.sync, job?.granularity], ["node-a", "full", 4096]);
  assertEquals([job?.["auto-dismiss"], job?.speed], [false, undefined]);
});

Deno.test("mirrors: ready when every one is; another job's events count for nothing", async () => {
  const { link, qmp, mirrors } = await startMirrors();
  await using _ = qmp;
  for (const device of ["migrate-agent-1", "stranger", "migrate-agent-0"]) {
    link.event("BLOCK_JOB_READY", { device });
  }
  const reports: boolean[][] = [];
  await mirrors.waitReady({
    report: (progress) => reports.push(progress.map(({ ready }) => ready)),
    signal: never,
  });
  assertEquals(reports.at(-1), [true, true]);
});

Deno.test("mirrors: one that ends before it is ready is told with QEMU's reason", async () => {
  const { link, qmp, mirrors } = await startMirrors();
  await using _ = qmp;
  const ended = { device: "migrate-agent-1", error: "No space left on device" };
  link.event("BLOCK_JOB_COMPLETED", ended);
  const waiting = mirrors.waitReady({ report: () => {}, signal: never });
  const error = await assertRejects(() => waiting, AgentError, "disk 'b' ended: No space left");
  assertEquals([error.code, error.side], ["mirror_failed", "source"]);
});

Deno.test("mirrors: a failing look at the progress ends the wait", async () => {
  const { qmp, mirrors } = await startMirrors({
    "query-block-jobs": () => {
      throw new ScriptedError("no jobs today");
    },
  });
  await using _ = qmp;
  const waiting = mirrors.waitReady({ report: () => {}, signal: never });
  await assertRejects(() => waiting, AgentError, "no jobs today");
});

Deno.test("mirrors: watch ends with the first mirror that ends, or when told to", async () => {
  const { link, qmp, mirrors } = await startMirrors();
  await using _ = qmp;
  const stop = new AbortController();
  const quiet = mirrors.watch(stop.signal);
  stop.abort();
  await quiet;
  const watching = mirrors.watch(never);
  link.event("BLOCK_JOB_CANCELLED", { device: "migrate-agent-0" });
  await assertRejects(() => watching, AgentError, "disk 'a' ended");
});

Deno.test("finish: cancelled without force, never completed; dismissed, then the node", async () => {
  const { link, qmp, mirrors } = await startMirrors();
  await using _ = qmp;
  link.commands.length = 0;
  await mirrors.finish(never);
  assertEquals(link.names, [
    ...["block-job-cancel", "block-job-cancel"],
    ...["job-dismiss", "job-dismiss", "blockdev-del", "blockdev-del"],
  ]);
  assert(argsOf(link, "block-job-cancel").every(({ force }) => force !== true));
});

Deno.test("finish: no speed limit holds up a stopped guest", async () => {
  const { link, qmp, mirrors } = await startMirrors({}, { speed: 1e6 });
  await using _ = qmp;
  assertEquals(argsOf(link, "blockdev-mirror").map(({ speed }) => speed), [1e6, 1e6]);
  await mirrors.finish(never);
  assertEquals(argsOf(link, "block-job-set-speed").map(({ speed }) => speed), [0, 0]);
});

const BAD_ENDS: [string, string, Record<string, unknown>][] = [
  ["with an error", "BLOCK_JOB_COMPLETED", { error: "Input/output error", len: 9, offset: 9 }],
  ["before everything was copied", "BLOCK_JOB_COMPLETED", { len: 9, offset: 8 }],
  ["cancelled", "BLOCK_JOB_CANCELLED", { len: 9, offset: 9 }],
];
for (const [how, event, data] of BAD_ENDS) {
  Deno.test(`finish: a mirror that ends ${how} is no copy`, async () => {
    const { link, qmp, mirrors } = await startMirrors({
      "block-job-cancel": ({ device }) => link.event(event, { device, ...data }),
    });
    await using _ = qmp;
    const error = await assertRejects(() => mirrors.finish(never), AgentError);
    assertEquals(error.code, "mirror_failed");
  });
}
Deno.test("abandon: the dead connections are cut before anything waits for them", async () => {
  const { link, qmp, mirrors, jobs } = await startMirrors();
  await using _ = qmp;
  link.commands.length = 0;
  await mirrors.abandon();
  assertEquals(link.names[0], "yank");
  assertEquals(argsOf(link, "yank"), [{
    instances: ["migrate-agent-nbd-0", "migrate-agent-nbd-1"].map((name) => ({
      type: "block-node",
      "node-name": name,
    })),
  }]);
  assert(argsOf(link, "block-job-cancel").every(({ force }) => force === true));
  assertEquals(argsOf(link, "blockdev-del").length, 2);
  assertEquals(jobs.size, 0);
});

Deno.test("abandon: a job that the cut has ended meanwhile is dismissed all the same", async () => {
  const { link, qmp, mirrors, jobs } = await startMirrors({
    // QEMU 7.2: both jobs fail some time after the answer to `yank`.
    "block-job-cancel": ({ device }) => {
      for (const id of jobs.keys()) {
        if (jobs.get(id) === "concluded") continue;
        jobs.set(id, "concluded");
        link.event("JOB_STATUS_CHANGE", { id, status: "concluded" });
      }
      throw new ScriptedError(`Job '${device}' in state 'concluded' cannot accept 'cancel'`);
    },
  });
  await using _ = qmp;
  await mirrors.abandon();
  assertEquals([jobs.size, argsOf(link, "blockdev-del").length], [0, 2]);
});

Deno.test("abandon: a QEMU without yank is spared it; one failure hinders no other mirror", async () => {
  const features = { ...FEATURES, commands: new Set<string>() };
  const { link, qmp, mirrors } = await startMirrors({
    "blockdev-del": ({ "node-name": name }) => {
      if (name === "migrate-agent-nbd-0") throw new ScriptedError("in use");
    },
  }, { features });
  await using _ = qmp;
  await assertRejects(() => mirrors.abandon(), AgentError, "in use");
  assert(!link.names.includes("yank"));
  assertEquals(argsOf(link, "blockdev-del").length, 2);
});

/** A source QEMU whose migration has the statuses that a test tells. */
async function startOutgoing(answers: Record<string, Answer> = {}) {
  const link = new ScriptedLink({
    "query-migrate-capabilities": () =>
      CAPABILITIES.map((capability) => ({ capability, state: false })),
    "query-migrate-parameters": () => ({ "max-bandwidth": 134217728, "downtime-limit": 300 }),
    "query-migrate": () => ({ status: "active" }),
    "query-status": () => ({ status: "finish-migrate", running: false }),
    ...answers,
  });
  const qmp = await openScripted(link);
  return { link, qmp, outgoing: new OutgoingMigration(qmp, FEATURES) };
}

Deno.test("outgoing: pauses before the switchover, without QEMU's old speed limit; all put back", async () => {
  const { link, qmp, outgoing } = await startOutgoing();
  await using _ = qmp;
  const options = { bandwidthBytesPerS: 0, downtimeLimitMs: 50, autoConverge: true };
  await outgoing.remember(never);
  assertEquals(argsOf(link, "migrate-set-capabilities"), [], "remembered before it is changed");
  await outgoing.configure(options, never);
  const [set] = argsOf(link, "migrate-set-capabilities");
  const names = (set?.capabilities as { capability: string; state: boolean }[])
    .filter(({ state }) => state).map(({ capability }) => capability);
  assertEquals(names, ["events", "return-path", "pause-before-switchover", "auto-converge"]);
  const limit = { "max-bandwidth": 2 ** 40, "downtime-limit": 50 };
  assertEquals(argsOf(link, "migrate-set-parameters"), [limit]);
  await outgoing.restore();
  assertEquals(argsOf(link, "migrate-set-parameters").at(-1), {
    "max-bandwidth": 134217728,
    "downtime-limit": 300,
  });
  const restored = argsOf(link, "migrate-set-capabilities").at(-1);
  assert((restored?.capabilities as { state: boolean }[]).every(({ state }) => !state));
});

Deno.test("outgoing: waits through statuses that it does not know", async () => {
  const { link, qmp, outgoing } = await startOutgoing();
  await using _ = qmp;
  await outgoing.start("/r.sock", never);
  assertEquals(argsOf(link, "migrate"), [{ uri: "unix:/r.sock" }]);
  link.event("STOP");
  for (const status of ["setup", "wait-unplug", "active", "new-in-11", "pre-switchover"]) {
    link.event("MIGRATION", { status });
  }
  assertEquals(await outgoing.waitStopped({ report: () => {}, signal: never }), 100_250.5);
  for (const status of ["device", "completed"]) link.event("MIGRATION", { status });
  await outgoing.finish(never);
  assertEquals(argsOf(link, "migrate-continue"), [{ state: "pre-switchover" }]);
});

Deno.test("outgoing: a guest that runs on in 'pre-switchover' is no stopped guest", async () => {
  const { link, qmp, outgoing } = await startOutgoing({
    "query-status": () => ({ status: "running", running: true }),
  });
  await using _ = qmp;
  link.event("MIGRATION", { status: "pre-switchover" });
  const waiting = outgoing.waitStopped({ report: () => {}, signal: never });
  assertEquals((await assertRejects(() => waiting, AgentError)).code, "ram_failed");
});

Deno.test("outgoing: a failure is told with QEMU's reason", async () => {
  const { link, qmp, outgoing } = await startOutgoing({
    "query-migrate": () => ({ status: "failed", "error-desc": "Unable to write to socket" }),
  });
  await using _ = qmp;
  link.event("MIGRATION", { status: "failed" });
  const waiting = outgoing.waitStopped({ report: () => {}, signal: never });
  await assertRejects(() => waiting, AgentError, "Unable to write to socket");
});

Deno.test("outgoing: cancel cuts the connection first, and waits for the end", async () => {
  const { link, qmp, outgoing } = await startOutgoing({
    yank: () => {
      throw new ScriptedError("Instance not found", "DeviceNotFound");
    },
    migrate_cancel: () => link.event("MIGRATION", { status: "cancelled" }),
  });
  await using _ = qmp;
  await outgoing.cancel();
  assertEquals(link.names, [], "nothing was started");
  await outgoing.start("/r.sock", never);
  await outgoing.cancel();
  assertEquals(link.names.slice(1), ["query-migrate", "yank", "migrate_cancel"]);
});

for (const status of ["completed", "failed", "cancelled"]) {
  Deno.test(`outgoing: a migration that is '${status}' is not cancelled`, async () => {
    const { link, qmp, outgoing } = await startOutgoing({ "query-migrate": () => ({ status }) });
    await using _ = qmp;
    await outgoing.start("/r.sock", never);
    await outgoing.cancel();
    assert(!link.names.includes("migrate_cancel"));
  });
}

Deno.test("incoming: the disks stay the source's until the guest runs here", async () => {
  const link = new ScriptedLink();
  await using qmp = await openScripted(link);
  using incoming = new IncomingMigration(qmp);
  await incoming.listen("/r.sock", { features: FEATURES, signal: never });
  assertEquals(link.names, ["migrate-set-capabilities", "migrate-incoming"]);
  const [set] = argsOf(link, "migrate-set-capabilities");
  assertEquals(
    set?.capabilities,
    ["events", "return-path", "late-block-activate"].map(
      (capability) => ({ capability, state: true }),
    ),
  );
  for (const status of ["setup", "active", "device", "completed"]) {
    link.event("MIGRATION", { status });
  }
  await incoming.waitLoaded(never);
});

Deno.test("incoming: a failure is the destination's", async () => {
  const link = new ScriptedLink({ "query-migrate": () => ({ "error-desc": "bad section" }) });
  await using qmp = await openScripted(link);
  using incoming = new IncomingMigration(qmp);
  link.event("MIGRATION", { status: "failed" });
  const error = await assertRejects(() => incoming.waitLoaded(never), AgentError, "bad section");
  assertEquals([error.code, error.side], ["ram_failed", "destination"]);
});

function makeTarget(name: string) {
  const disk = makeDisk({ name });
  return { disk, path: `/d/${name}`, protocol: "file" as const, create: true, note: null };
}

Deno.test("exports: a writable one a mirrored disk, on nodes of their own; all closed by stop", async () => {
  const link = new ScriptedLink();
  await using qmp = await openScripted(link);
  const shared = { ...makeTarget("s"), disk: makeDisk({ name: "s", action: "shared" }) };
  const exports = new Exports(qmp, [makeTarget("a"), shared, makeTarget("b")]);
  assertEquals(exports.count, 2);
  const listen = { type: "inet", host: "::1", ports: { first: 7000, last: 7001 } } as const;
  const started = await exports.start({ listen, tlsCreds: null, signal: never });
  assertEquals(started.port, 7000);
  assertEquals(started.exports.map(({ disk }) => disk), ["a", "b"]);
  assert(argsOf(link, "block-export-add").every(({ writable }) => writable === true));
  link.commands.length = 0;
  await exports.stop(never);
  await exports.stop(never);
  assertEquals(link.names, ["nbd-server-stop", "blockdev-del", "blockdev-del"]);
});

Deno.test("exports: the next port when one is taken; a clear word when none is left", async () => {
  const taken = () => {
    throw new ScriptedError("Failed to bind socket: Address already in use");
  };
  const listen = { type: "inet", host: "::1", ports: { first: 7000, last: 7002 } } as const;
  const link = new ScriptedLink({
    "nbd-server-start": ({ addr }) => JSON.stringify(addr).includes("7002") ? undefined : taken(),
  });
  await using qmp = await openScripted(link);
  const options = { listen, tlsCreds: null, signal: never };
  assertEquals((await new Exports(qmp, [makeTarget("a")]).start(options)).port, 7002);
  await using full = await openScripted(new ScriptedLink({ "nbd-server-start": taken }));
  const starting = new Exports(full, [makeTarget("a")]).start(options);
  const error = await assertRejects(() => starting, AgentError, "in 7000-7002");
  assertEquals(error.code, "no_nbd_port");
});

Deno.test("exports: any other refusal is not tried again", async () => {
  const link = new ScriptedLink({
    "nbd-server-start": () => {
      throw new ScriptedError("Cannot assign requested address");
    },
  });
  await using qmp = await openScripted(link);
  const listen = { type: "inet", host: "192.0.2.1", ports: null } as const;
  const starting = new Exports(qmp, [makeTarget("a")])
    .start({ listen, tlsCreds: null, signal: never });
  await assertRejects(() => starting, AgentError, "Cannot assign");
  assertEquals(argsOf(link, "nbd-server-start").length, 1);
});
