// scripts/ansible/migrate.yml, run by the real ansible-playbook between two hosts that it reaches by
// SSH: it moves a guest, does nothing when the guest has arrived, and says in one line why it failed.

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { QmpClient } from "../../src/qmp/client.ts";
import { agentCommand } from "../lib/agents.ts";
import { capture, type CommandOutput } from "../lib/command.ts";
import { assertGoesOn, assertNoRemains, makeBootDisk } from "../lib/moving.ts";
import { requires } from "../lib/requires.ts";
import { TempDir } from "../lib/temp.ts";
import { TestVm } from "../lib/vm.ts";
import { AnsibleHosts, type HostName, type HostVars } from "./hosts.ts";

const PLAYBOOK = new URL("../../scripts/ansible/migrate.yml", import.meta.url).pathname;
const EXAMPLE_INVENTORY =
  new URL("../../scripts/ansible/inventory.example.yml", import.meta.url).pathname;
const NEEDS = [
  ...["root", "qemu-system-x86_64", "ip", "ansible-playbook", "sshd", "ssh", "ssh-keygen"],
];
/** A cold start of Ansible and of an agent that is not compiled takes seconds, many times over. */
const LIMIT_MS = 300_000;

/** Senders that end without anybody knowing who has the guest. */
const UNCERTAIN_SENDERS = {
  "a sender that does not know":
    `echo '{"type":"account","owner":null,"error":{"message":"no word"}}'; exit 6`,
  "a sender that is killed": "kill -KILL $$",
  // Its ancestors are Ansible's: up to the server's process for this connection.
  "a lost connection to the source": "pid=$$; while [ $(cat /proc/$pid/comm) != sshd ]; do " +
    "pid=$(awk '/^PPid/ { print $2 }' /proc/$pid/status); done; kill -KILL $pid",
};

Deno.test({
  name: "ansible: the playbook and the example inventory are well formed",
  ...requires("ansible-playbook"),
  async fn() {
    const signal = AbortSignal.timeout(60_000);
    await using temp = await TempDir.create();
    const hosts = ["-e", "source=alpha", "-e", "destination=beta", "-e", "guest=vm1"];
    const { code, stdout, stderr } = await capture([
      ...["env", `HOME=${temp.path}`, "LC_ALL=C.UTF-8", "ansible-playbook", "--syntax-check"],
      ...["-i", EXAMPLE_INVENTORY, ...hosts, PLAYBOOK],
    ], signal);
    assertEquals({ code, stderr }, { code: 0, stderr: "" }, stdout);
  },
});

Deno.test({
  name: "ansible: a guest moves between two hosts",
  ...requires(...NEEDS),
  async fn(t) {
    const signal = AbortSignal.timeout(LIMIT_MS);
    await using site = await Site.create(signal);
    await using vm = await site.startGuest(signal);
    const since = (await vm.waitForCountAbove(20, signal)).count;

    await t.step("a disk is in the way: it stays, and one line says why", async () => {
      const target = site.hosts.file("right/disks/disk.raw");
      await Deno.writeTextFile(target, "precious");
      const failed = await site.play({ signal });
      expectFailure(
        failed,
        `Guest vm1 was not moved, it stays at left: Cannot create target disk '${target}': ` +
          "it exists already (",
      );
      assertEquals(await Deno.readTextFile(target), "precious");
      await Deno.remove(target);
      await site.assertNothingAt("right");
      await assertGoesOn(vm.monitor, { since, signal });
    });

    await t.step("a sender that never comes: the receiver is told to end", async () => {
      const left = { migrate_send_options: ["--timeout", "soon"] };
      expectFailure(await site.play({ left, signal }), "stays at left: --timeout 'soon'");
      await site.assertNothingAt("right");
      await assertGoesOn(vm.monitor, { since, signal });
    });

    await t.step("the receiver cannot start: its reason is shown", async () => {
      const right = { migrate_receive_options: ["--nbd-ports", "many"] };
      expectFailure(await site.play({ right, signal }), "right cannot receive: ");
      await site.assertNothingAt("right");
    });

    for (const [what, command] of Object.entries(UNCERTAIN_SENDERS)) {
      await t.step(`${what}: nothing is ended, and the operator is warned`, async () => {
        const migrate_agent = await site.makeScript("uncertain", command);
        const { code, stdout } = await site.play({ left: { migrate_agent }, signal });
        assertEquals(code, 2, stdout);
        const warning = /^fatal: .*UNCERTAIN: guest vm1 may run at right, or be paused at left/m;
        assertMatch(stdout, warning);
        const [receiver, ...more] = await site.hosts.processes();
        assertEquals(more, []);
        assertStringIncludes(receiver!.command, " receive ");
        Deno.kill(receiver!.pid, "SIGTERM");
        await site.hosts.ended(signal);
        await site.assertNothingAt("right");
      });
    }

    await t.step("it moves, and counts on without a break", async () => {
      const before = await vm.readGuest(signal);
      const moved = expectSuccess(await site.play({ signal }), { host: "left", changes: 2 });
      assertMatch(moved, /Guest vm1 runs at right \(process \d+, QMP socket .*a pause of \d+ ms/);
      assertEquals((await vm.ended).code, 0);
      await site.assertArrived("right", { since: before.count, signal });
      await site.assertNothingAt("left");
    });

    await t.step("a second run changes nothing", async () => {
      const before = await site.hosts.processes();
      const again = expectSuccess(await site.play({ signal }), { host: "left", changes: 0 });
      assertStringIncludes(again, "Guest vm1 runs at right already: nothing to do");
      assertEquals(await site.hosts.processes(), before);
      await site.assertArrived("right", { since, signal });
    });

    await t.step(
      "the guest that arrived moves back, its socket where it is looked for",
      async () => {
        expectSuccess(await site.play({ from: "right", signal }), { host: "right", changes: 2 });
        await site.assertArrived("left", { since, signal });
        await using guest = await site.openGuest("left", signal);
        await guest.execute("quit", {}, { signal });
        await site.hosts.ended(signal);
      },
    );
  },
});

/** Two hosts with the program, and a guest on the left one. */
class Site implements AsyncDisposable {
  readonly hosts: AnsibleHosts;
  /** The first QEMU's own folder, so that it does not count among the playbooks' processes. */
  readonly #temp: TempDir;
  #vm: TestVm | undefined;

  private constructor(hosts: AnsibleHosts, temp: TempDir) {
    this.hosts = hosts;
    this.#temp = temp;
  }

  static async create(signal: AbortSignal): Promise<Site> {
    const site = new Site(await AnsibleHosts.create(signal), await TempDir.create());
    for (const folder of ["left/disks", "left/run", "right/disks", "right/run", "tmp"]) {
      await Deno.mkdir(site.hosts.file(folder), { recursive: true });
    }
    const program = agentCommand().map((word) => `'${word}'`).join(" ");
    await site.makeScript(
      "migrate-agent",
      `TMPDIR='${site.hosts.file("tmp")}' exec ${program} "$@"`,
    );
    return site;
  }

  async startGuest(signal: AbortSignal): Promise<TestVm> {
    const path = this.#temp.file("disk.raw");
    await makeBootDisk(path, { signal });
    return this.#vm = await TestVm.start([
      ...["-nodefaults", "-name", "vm1", "-m", "64"],
      ...["-blockdev", `raw,node-name=disk,file.driver=file,file.filename=${path}`],
      ...["-device", "virtio-blk-pci,drive=disk"],
    ], { netns: this.hosts.net.left.netns, signal });
  }

  /** Moves the guest from `from` to the other host; `left` and `right` add to the hosts' variables. */
  async play(
    options: { from?: HostName; left?: HostVars; right?: HostVars; signal: AbortSignal },
  ): Promise<CommandOutput> {
    const { from = "left", left, right, signal } = options;
    await this.hosts.describe({
      left: {
        ...this.#varsOf("left"),
        ...(from === "left" ? { migrate_qmp: this.#vm!.qmpPath } : {}),
        ...left,
      },
      right: { ...this.#varsOf("right"), ...right },
    });
    const destination = from === "left" ? "right" : "left";
    const vars = { guest: "vm1", source: from, destination };
    return await this.hosts.play(PLAYBOOK, { vars, signal });
  }

  /** A program on the hosts that is a shell's `command`; its path. */
  async makeScript(name: string, command: string): Promise<string> {
    const path = this.hosts.file(name);
    await Deno.writeTextFile(path, `#!/bin/sh\n${command}\n`, { mode: 0o755 });
    return path;
  }

  /** The QMP connection of the guest that arrived at that host. */
  openGuest(host: HostName, signal: AbortSignal): Promise<QmpClient> {
    return QmpClient.connect(this.hosts.file(`${host}/run/vm1/qmp.sock`), { signal });
  }

  /** The guest counts on at that host, and nothing but its QEMU is left of the playbook. */
  async assertArrived(
    host: HostName,
    { since, signal }: { since: number; signal: AbortSignal },
  ): Promise<void> {
    await using guest = await this.openGuest(host, signal);
    await assertNoRemains(guest, signal);
    await assertGoesOn(guest, { since, signal });
    const [qemu, ...more] = await this.hosts.processes();
    assertStringIncludes(qemu!.command, "qemu-system-x86_64 ");
    assertEquals(more, []);
    assertEquals(await namesIn(this.hosts.file("tmp")), []);
  }

  /** That host has nothing of the guest but the logs of receivers. */
  async assertNothingAt(host: HostName): Promise<void> {
    assertEquals(await namesIn(this.hosts.file(`${host}/disks`)), []);
    assertEquals(await namesIn(this.hosts.file("tmp")), []);
    const names = await namesIn(this.hosts.file(`${host}/run`));
    assertEquals(names.filter((name) => !/^receive-\d+\.log$/.test(name)), []);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.hosts[Symbol.asyncDispose]();
    await this.#temp[Symbol.asyncDispose]();
  }

  #varsOf(host: HostName): HostVars {
    return {
      migrate_agent: this.hosts.file("migrate-agent"),
      migrate_run_dir: this.hosts.file(`${host}/run`),
      migrate_state_dir: this.hosts.file(`${host}/state`),
      migrate_disk_dir: this.hosts.file(`${host}/disks`),
    };
  }
}

/** The playbook did its job, with so many tasks that changed something; what it printed. */
function expectSuccess(
  { code, stdout, stderr }: CommandOutput,
  { host, changes }: { host: HostName; changes: number },
): string {
  assertEquals({ code, stderr }, { code: 0, stderr: "" }, stdout);
  assertMatch(stdout, new RegExp(`^${host} +: .*changed=${changes} .*failed=0`, "m"));
  assert(!stdout.includes("mat1_"), "a ticket is shown");
  return stdout;
}

/** The playbook failed, and one line of what it printed is Ansible's own with `why`. */
function expectFailure({ code, stdout, stderr }: CommandOutput, why: string): void {
  const text = stdout + stderr;
  assertEquals(code, 2, text);
  const lines = text.split("\n").filter((line) => line.startsWith("fatal: "));
  assert(lines.length === 1 && lines[0]!.includes(why), text);
}

async function namesIn(folder: string): Promise<string[]> {
  const names: string[] = [];
  for await (const entry of Deno.readDir(folder)) names.push(entry.name);
  return names.sort();
}
