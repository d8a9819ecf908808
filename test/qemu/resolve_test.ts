// `resolve` and `status` on journals of agents that are dead, with real QEMUs: the guest ends up in one
// place, running, whatever side and state. The mirrors and the memory are in settle_test.ts.

import { assert, assertEquals, assertRejects } from "@std/assert";
import { resolve } from "../../agents/resolve.ts";
import { status } from "../../agents/status.ts";
import { abortable } from "../../src/base/deadline.ts";
import { AgentError, type Side } from "../../src/base/errors.ts";
import { identifyProcess } from "../../src/base/process_identity.ts";
import { findByArguments } from "../../src/guest/proc.ts";
import type { JournalRecord, NewJournal } from "../../src/migration/journal_record.ts";
import { TestVm } from "../lib/vm.ts";
import { requires } from "../lib/requires.ts";
import { DEAD, newJournal, TestFolder } from "../unit/migration/journal_fixture.ts";

const needs = requires("qemu-system-x86_64");
const LIMIT_MS = 60_000;

async function begin(folder: TestFolder, change: Partial<NewJournal>): Promise<void> {
  await folder.state.begin(newJournal({ agent: DEAD, phase: "handover", ...change }));
}

function run(
  folder: TestFolder,
  { keep = null, signal }: { keep?: Side | null; signal: AbortSignal },
) {
  const options = { id: "m1", side: null, keep, stateDir: folder.state.path, json: false };
  const ask = () => Promise.resolve(null);
  return resolve({ command: "resolve", ...options }, { ask, signal });
}

/** A QEMU whose guest has left it, or has arrived in it and waits. */
async function startPaused(side: Side, signal: AbortSignal): Promise<TestVm> {
  const vm = await TestVm.start(["-nodefaults", "-S"], { signal });
  if (side === "destination") return vm;
  await vm.monitor.execute("cont", {}, { signal });
  await vm.monitor.execute("migrate", { uri: "exec:cat >/dev/null" }, { signal });
  using events = vm.monitor.subscribe("STOP");
  if (await vm.runState(signal) === "running") await events.next(signal);
  while (await vm.runState(signal) !== "postmigrate") { /* the end of the migration's last step */ }
  return vm;
}

async function journalOf(vm: TestVm): Promise<Partial<NewJournal>> {
  return { qmp: vm.qmpPath, guest_process: await identifyProcess(vm.pid) };
}

const RUNS: [Side, JournalRecord["state"], Side | null, JournalRecord["state"]][] = [
  ["source", "handover_sent", "source", "kept"],
  ["source", "kept", null, "kept"],
  ["destination", "accepted", null, "running"],
  ["destination", "accepted", "destination", "running"],
];
for (const [side, state, keep, end] of RUNS) {
  Deno.test({
    name: `resolve: ${side} ${state}, keep ${keep}: the guest runs on here`,
    ...needs,
    async fn() {
      const signal = AbortSignal.timeout(LIMIT_MS);
      await using folder = await TestFolder.create();
      await using vm = await startPaused(side, signal);
      const parts = await journalOf(vm);
      const { qmp, guest_process: process } = parts;
      const remains = side === "destination" ? [] : [{
        kind: "source_qemu" as const,
        qmp: qmp!,
        process: process!,
        should_run: true,
        settings: null,
      }];
      await begin(folder, { side, state, remains, ...parts });
      const document = await run(folder, { keep, signal });
      assertEquals([document.state, document.run_state], [end, "running"]);
      assertEquals(await vm.runState(signal), "running");
    },
  });
}

Deno.test({
  name: "resolve: source handed over, or said to be: its QEMU ends and its guest never runs again",
  ...needs,
  async fn() {
    for (
      const [state, keep] of [["handover_sent", "destination"], ["handed_over", null]] as const
    ) {
      const signal = AbortSignal.timeout(LIMIT_MS);
      await using folder = await TestFolder.create();
      await using vm = await startPaused("source", signal);
      using resumed = vm.monitor.subscribe("RESUME");
      await begin(folder, { state, ...await journalOf(vm) });
      const { state: end, run_state } = await run(folder, { keep, signal });
      assertEquals([end, run_state], ["handed_over", null]);
      await abortable(vm.ended, signal);
      assertEquals(resumed.lastSeenMs, undefined);
    }
  },
});

Deno.test({
  name: "resolve: source, handover sent: paused until somebody knows; status says what there is",
  ...needs,
  async fn() {
    const signal = AbortSignal.timeout(LIMIT_MS);
    await using folder = await TestFolder.create();
    await using vm = await startPaused("source", signal);
    await begin(folder, { state: "handover_sent", ...await journalOf(vm) });
    const error = await assertRejects(() => run(folder, { signal }), AgentError);
    assertEquals([error.code, error.kind], ["undecided", "uncertain"]);
    const options = { command: "status" as const, id: null, json: true };
    const { migrations: [account] } = await status(
      { ...options, stateDir: folder.state.path },
      signal,
    );
    assertEquals(
      [account?.run_state, account?.qemu_alive, account?.agent_pid, account?.next],
      ["postmigrate", true, null, "migrate-agent resolve m1 --side source"],
    );
  },
});

Deno.test({
  name: "resolve: destination accepted: a guest that runs is not given up; one that is gone may be",
  ...needs,
  async fn() {
    const signal = AbortSignal.timeout(LIMIT_MS);
    await using folder = await TestFolder.create();
    await using vm = await startPaused("destination", signal);
    await vm.monitor.execute("cont", {}, { signal });
    await begin(folder, { side: "destination", state: "accepted", ...await journalOf(vm) });
    const running = () => run(folder, { keep: "source", signal });
    await assertRejects(running, AgentError, "the guest runs here");
    assertEquals(await vm.runState(signal), "running");
    vm.kill("SIGKILL");
    await abortable(vm.ended, signal);
    await assertRejects(() => run(folder, { signal }), AgentError, `(process ${vm.pid}) has ended`);
    assertEquals((await run(folder, { keep: "source", signal })).state, "ended");
  },
});

Deno.test({
  name: "resolve: destination accepted: a guest that is not whole is not let run, now or later",
  ...needs,
  async fn() {
    const signal = AbortSignal.timeout(LIMIT_MS);
    await using folder = await TestFolder.create();
    await using vm = await TestVm.start(["-nodefaults", "-S", "-incoming", "defer"], { signal });
    await begin(folder, { side: "destination", state: "accepted", ...await journalOf(vm) });
    const error = await assertRejects(() => run(folder, { signal }), AgentError, "waits for more");
    assertEquals([error.code, error.kind], ["undecided", "uncertain"]);
    assertEquals((await run(folder, { keep: "source", signal })).state, "ended");
    await abortable(vm.ended, signal);
  },
});

Deno.test({
  name:
    "resolve: destination preparing: a QEMU in the background ends, known by its pid file alone",
  ...needs,
  async fn() {
    const signal = AbortSignal.timeout(LIMIT_MS);
    await using folder = await TestFolder.create();
    const path = folder.temp.file("qemu.pid");
    const { success } = await new Deno.Command("qemu-system-x86_64", {
      args: [
        ...["-accel", "tcg", "-nodefaults", "-display", "none", "-S", "-incoming", "defer"],
        ...["-daemonize", "-pidfile", path],
      ],
    }).output();
    assert(success);
    assertEquals(await findByArguments(["-pidfile", path]), [
      Number(await Deno.readTextFile(path)),
    ]);
    await begin(folder, {
      side: "destination",
      phase: "params",
      remains: [{ kind: "pid_file", path }],
    });
    const { state, journal } = await run(folder, { signal });
    assertEquals([state, journal], ["never_ran", null]);
    assertEquals(await findByArguments(["-pidfile", path]), []);
  },
});
