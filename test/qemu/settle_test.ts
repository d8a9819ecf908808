// What a killed sender leaves in the guest's QEMU, put in order from outside: real mirrors, a real
// migration, and no agent any more. Done twice, and after each part of it was done already.

import { assert, assertEquals, assertGreater } from "@std/assert";
import { abortable } from "../../src/base/deadline.ts";
import { identifyProcess } from "../../src/base/process_identity.ts";
import type { Remain } from "../../src/base/remains.ts";
import { inspectGuest } from "../../src/guest/inspect.ts";
import { MirrorSet } from "../../src/guest/mirror.ts";
import { makePskKey, PskCredentials } from "../../src/guest/nbd_keys.ts";
import { makePrivateFolder } from "../../src/guest/private_folder.ts";
import { OutgoingMigration } from "../../src/guest/ram.ts";
import { settleRemains } from "../../src/guest/settle.ts";
import { QmpClient } from "../../src/qmp/client.ts";
import { makeImage } from "../lib/disks.ts";
import {
  assertGoesOn,
  assertUntouched,
  attach,
  type Baseline,
  makeBootDisk,
  readBaseline,
  startGuest,
} from "../lib/moving.ts";
import { requires } from "../lib/requires.ts";
import { TempDir } from "../lib/temp.ts";
import { TestVm } from "../lib/vm.ts";

const needs = requires("qemu-system-x86_64");
const DISK_BYTES = 8 * 2 ** 20;
const LIMIT_MS = 90_000;

/** A guest with a disk, an NBD server for it in another QEMU, and what an agent made of both. */
class Scene implements AsyncDisposable {
  readonly temp: TempDir;
  readonly vm: TestVm;
  readonly server: TestVm;
  readonly before: Baseline;
  readonly #stack: AsyncDisposableStack;

  private constructor(
    stack: AsyncDisposableStack,
    parts: { temp: TempDir; vm: TestVm; server: TestVm; before: Baseline },
  ) {
    this.#stack = stack;
    this.temp = parts.temp;
    this.vm = parts.vm;
    this.server = parts.server;
    this.before = parts.before;
  }

  static async start(signal: AbortSignal): Promise<Scene> {
    await using stack = new AsyncDisposableStack();
    const temp = stack.use(await TempDir.create());
    await makeBootDisk(temp.file("d0.raw"), { sizeBytes: DISK_BYTES, signal });
    await makeImage(temp.file("t0.raw"), { format: "raw", sizeBytes: DISK_BYTES, signal });
    const vm = stack.use(await startGuest(attach(temp.file("d0.raw")), { signal }));
    const server = stack.use(
      await TestVm.start([
        ...["-nodefaults", "-S", "-blockdev"],
        `raw,node-name=t0,file.driver=file,file.filename=${temp.file("t0.raw")}`,
      ], { signal }),
    );
    const addr = { type: "unix", data: { path: temp.file("nbd.sock") } };
    await server.monitor.execute("nbd-server-start", { addr }, { signal });
    await server.monitor.execute("block-export-add", {
      ...{ type: "nbd", id: "e0", "node-name": "t0", name: "d0", writable: true },
    }, { signal });
    const before = await readBaseline(vm.monitor, signal);
    return new Scene(stack.move(), { temp, vm, server, before });
  }

  /** Does what a sender does up to there, then ends without a word. What its journal would hold. */
  async leaveBehind(
    until: "key" | "mirror" | "ready" | "stopped",
    { signal, slow = false }: { signal: AbortSignal; slow?: boolean },
  ): Promise<Remain> {
    const { vm, temp } = this;
    const qmp = await QmpClient.connect(vm.qmpPath, { signal });
    const { features, params } = await inspectGuest(qmp, {
      qemuPid: vm.pid,
      choice: { copyStorage: true, only: null, exclude: [] },
      signal,
    });
    await using folder = await makePrivateFolder({ pid: vm.pid });
    await new PskCredentials(qmp, folder).install(
      { endpoint: "client", key: makePskKey() },
      signal,
    );
    const remain: Extract<Remain, { kind: "source_qemu" }> = {
      kind: "source_qemu",
      qmp: vm.qmpPath,
      process: await identifyProcess(vm.pid),
      should_run: true,
      settings: null,
    };
    if (until !== "key") {
      using mirrors = new MirrorSet(qmp, {
        tlsCreds: null,
        targets: [{
          disk: params.disks[0]!,
          nbd: { type: "unix", path: temp.file("nbd.sock") },
          export: "d0",
        }],
        speedBytesPerS: slow ? 65536 : 0,
        reconnectMs: 0,
        features,
      });
      await mirrors.start(signal);
      if (until !== "mirror") await mirrors.waitReady({ report: () => {}, signal });
    }
    if (until === "stopped") {
      using listener = Deno.listen({ transport: "unix", path: temp.file("ram.sock") });
      using outgoing = new OutgoingMigration(qmp, features);
      const [capabilities, parameters] = await Promise.all([
        qmp.execute("query-migrate-capabilities", {}, { signal }),
        qmp.execute("query-migrate-parameters", {}, { signal }),
      ]);
      remain.settings = {
        capabilities,
        parameters: { "max-bandwidth": Number(parameters["max-bandwidth"]) },
      };
      await outgoing.configure({
        bandwidthBytesPerS: 0,
        downtimeLimitMs: null,
        autoConverge: false,
      }, signal);
      const accepted = listener.accept();
      await outgoing.start(temp.file("ram.sock"), signal);
      const conn = await abortable(accepted, signal);
      const draining = conn.readable.pipeTo(new WritableStream(), { signal }).catch(() => {});
      await outgoing.waitStopped({ report: () => {}, signal });
      assertEquals(await vm.runState(signal), "finish-migrate");
      conn.close();
      await draining;
    }
    await qmp.close();
    return remain;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack[Symbol.asyncDispose]();
  }
}

async function settle(remain: Remain, signal: AbortSignal): Promise<string[]> {
  const done: string[] = [];
  const { left, failures } = await settleRemains([remain], {
    mayRun: true,
    signal,
    log: (what) => done.push(what),
  });
  assertEquals(failures.map(({ message }) => message), []);
  assertEquals(left, []);
  return done;
}

for (const until of ["key", "mirror", "ready", "stopped"] as const) {
  Deno.test({
    name: `settle: a source whose sender was killed (${until}) runs on with nothing left, twice`,
    ...needs,
    async fn() {
      const signal = AbortSignal.timeout(LIMIT_MS);
      await using scene = await Scene.start(signal);
      const { vm, before } = scene;
      const remain = await scene.leaveBehind(until, { signal, slow: until === "mirror" });
      const { count } = await vm.readGuest(signal);
      const done = await settle(remain, signal);
      assertGreater(done.length, 0);
      await assertUntouched(vm, { before, signal });
      assertEquals(await settle(remain, signal), [], "nothing is left to do");
      await assertUntouched(vm, { before, signal });
      await assertGoesOn(vm.monitor, { since: count, signal });
      const objects = await vm.monitor.execute("qom-list", { path: "/objects" }, { signal });
      assertEquals(objects.filter(({ name }) => name.startsWith("migrate-agent")), []);
    },
  });
}

for (const until of ["ready", "stopped"] as const) {
  Deno.test({
    name: `settle: mirrors (${until}) whose server has died, and then a part of it by hand`,
    ...needs,
    async fn() {
      const signal = AbortSignal.timeout(LIMIT_MS);
      await using scene = await Scene.start(signal);
      const { vm, server, before } = scene;
      const remain = await scene.leaveBehind(until, { signal });
      server.kill("SIGKILL");
      await abortable(server.ended, signal);
      await vm.monitor.execute("object-del", { id: "migrate-agent-psk" }, { signal });
      await settle(remain, signal);
      await assertUntouched(vm, { before, signal });
    },
  });
}

Deno.test({
  name:
    "settle: a guest that somebody paused meanwhile stays paused, and so does a strange migration",
  ...needs,
  async fn() {
    const signal = AbortSignal.timeout(LIMIT_MS);
    await using scene = await Scene.start(signal);
    const { vm } = scene;
    const remain = await scene.leaveBehind("mirror", { signal, slow: true });
    await vm.monitor.execute("stop", {}, { signal });
    // Settings that are untouched say that no migration is this one's.
    using listener = Deno.listen({ transport: "unix", path: scene.temp.file("other.sock") });
    const uri = `unix:${listener.addr.path}`;
    await vm.monitor.execute("migrate-set-parameters", { "max-bandwidth": 4096 }, { signal });
    await vm.monitor.execute("migrate", { uri }, { signal });
    using _conn = await abortable(listener.accept(), signal);
    await settle(remain, signal);
    assertEquals(await vm.monitor.execute("query-jobs", {}, { signal }), []);
    assertEquals(await vm.runState(signal), "paused");
    const { status } = await vm.monitor.execute("query-migrate", {}, { signal });
    assert(status === "setup" || status === "active", status);
  },
});

Deno.test({
  name: "settle: a guest that a strange migration holds stopped is told, not waited for",
  ...needs,
  async fn() {
    const signal = AbortSignal.timeout(LIMIT_MS);
    await using scene = await Scene.start(signal);
    const remain = await scene.leaveBehind("stopped", { signal });
    assert(remain.kind === "source_qemu");
    const options = { mayRun: true, signal, log: () => {} };
    const { failures } = await settleRemains([{ ...remain, settings: null }], options);
    assertEquals(failures.map(({ message }) => message.includes("Another migration")), [true]);
    await settle(remain, signal);
    await assertUntouched(scene.vm, { before: scene.before, signal });
  },
});

Deno.test({
  name: "settle: a guest that is not this host's any more is tidied and not let run",
  ...needs,
  async fn() {
    const signal = AbortSignal.timeout(LIMIT_MS);
    await using scene = await Scene.start(signal);
    const remain = await scene.leaveBehind("key", { signal });
    const { vm } = scene;
    await vm.monitor.execute("migrate", { uri: "exec:cat >/dev/null" }, { signal });
    while (await vm.runState(signal) !== "postmigrate");
    const options = { signal, log: () => {} };
    await settleRemains([remain], { mayRun: false, ...options });
    assertEquals(await vm.runState(signal), "postmigrate");
    await settleRemains([remain], { mayRun: true, ...options });
    assertEquals(await vm.runState(signal), "running");
  },
});

Deno.test({
  name: "settle: a QEMU that has ended needs nothing; one that is used by somebody else is told",
  ...needs,
  async fn() {
    const signal = AbortSignal.timeout(LIMIT_MS);
    await using scene = await Scene.start(signal);
    const remain = await scene.leaveBehind("key", { signal });
    const { vm } = scene;
    const options = { mayRun: true, signal, log: () => {} };
    await using _other = await QmpClient.connect(vm.qmpPath, { signal });
    const { left, failures } = await settleRemains([remain], options);
    assertEquals(left, [remain]);
    assertEquals(failures.map(({ message }) => message.includes("No QMP greeting")), [true]);
    vm.kill("SIGKILL");
    await abortable(vm.ended, signal);
    assertEquals(await settleRemains([remain], options), { left: [], failures: [] });
  },
});
