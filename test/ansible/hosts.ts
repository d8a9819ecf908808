// Two hosts as Ansible sees them: network namespaces with an SSH server each, and an inventory that
// names them. Everything is in a folder of the test's own: keys, configurations, Ansible's own files.
// Knows nothing of migrations.

import { delay } from "../../src/base/deadline.ts";
import { capture, type CommandOutput, run } from "../lib/command.ts";
import { type TestHost, TestNet } from "../lib/netns.ts";
import { TempDir } from "../lib/temp.ts";

const LOOK_MS = 20;
/** Debian's; what PATH has first may be another Python, with which its Ansible does not work. */
const PYTHON = "/usr/bin/python3";

export type HostName = "left" | "right";
/** What a playbook is told about a host. */
export type HostVars = Record<string, string | number | boolean | string[]>;

export class AnsibleHosts implements AsyncDisposable {
  readonly net: TestNet;
  readonly #temp: TempDir;
  readonly #servers: SshServer[] = [];

  private constructor(net: TestNet, temp: TempDir) {
    this.net = net;
    this.#temp = temp;
  }

  /** Two namespaces with SSH servers that answer, and the keys to get in. */
  static async create(signal: AbortSignal): Promise<AnsibleHosts> {
    const hosts = new AnsibleHosts(await TestNet.create(signal), await TempDir.create());
    try {
      await hosts.#start(signal);
      return hosts;
    } catch (error) {
      await hosts[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** The path of `name` in the folder that both hosts share. */
  file(name: string): string {
    return this.#temp.file(name);
  }

  /** Writes the inventory: hosts `left` and `right` with these variables. */
  async describe(vars: Record<HostName, HostVars>): Promise<void> {
    const describeHost = (host: TestHost, vars: HostVars) => ({
      ansible_host: host.address,
      ansible_user: "root",
      ansible_python_interpreter: PYTHON,
      ansible_remote_tmp: this.file("remote"),
      ...vars,
    });
    const { left, right } = this.net;
    const inventory = {
      all: {
        hosts: { left: describeHost(left, vars.left), right: describeHost(right, vars.right) },
      },
    };
    await Deno.writeTextFile(this.file("inventory.json"), JSON.stringify(inventory));
  }

  /** Runs a playbook from the left host, which reaches both, with these extra variables. */
  async play(
    playbook: string,
    options: { vars: HostVars; signal: AbortSignal },
  ): Promise<CommandOutput> {
    const { vars, signal } = options;
    const argv = [
      ...["env", `ANSIBLE_CONFIG=${this.file("ansible.cfg")}`, `HOME=${this.#temp.path}`],
      ...["LC_ALL=C.UTF-8", "ansible-playbook", "-i", this.file("inventory.json")],
      ...["-e", JSON.stringify(vars), playbook],
    ];
    return await capture(this.net.inside(this.net.left, argv), signal);
  }

  /** Processes of the playbooks: those that name the shared folder, but for the SSH servers. */
  async processes(): Promise<{ pid: number; command: string }[]> {
    const found: { pid: number; command: string }[] = [];
    for await (const entry of Deno.readDir("/proc")) {
      const pid = Number(entry.name);
      if (!Number.isInteger(pid) || pid === Deno.pid) continue;
      const command = await commandLine(pid);
      const isServer = this.#servers.some((server) => server.pid === pid);
      if (command.includes(this.#temp.path) && !isServer) found.push({ pid, command });
    }
    return found;
  }

  /** Waits until all processes of the playbooks have ended. */
  async ended(signal: AbortSignal): Promise<void> {
    while ((await this.processes()).length > 0) await delay(LOOK_MS, signal);
  }

  /** Kills what the playbooks left running, then the servers; removes namespaces and folder. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const { pid, command } of await this.processes()) {
      console.error(`Killed process ${pid}: ${command}`);
      Deno.kill(pid, "SIGKILL");
      while (await commandLine(pid) !== "") await delay(LOOK_MS);
    }
    for (const server of this.#servers) await server[Symbol.asyncDispose]();
    await this.net[Symbol.asyncDispose]();
    await this.#temp[Symbol.asyncDispose]();
  }

  async #start(signal: AbortSignal): Promise<void> {
    await makeKey(this.file("client_key"), signal);
    let knownHosts = "";
    for (const [name, host] of [["left", this.net.left], ["right", this.net.right]] as const) {
      const key = this.file(`${name}_key`);
      await makeKey(key, signal);
      knownHosts += `${host.address} ${await Deno.readTextFile(`${key}.pub`)}`;
      const config = this.file(`${name}_sshd_config`);
      await Deno.writeTextFile(config, serverConfig(host, key, this.file("client_key.pub")));
      this.#servers.push(await SshServer.start(this.net.inside(host, serverCommand(config))));
    }
    await Deno.writeTextFile(this.file("known_hosts"), knownHosts);
    await Deno.writeTextFile(this.file("ansible.cfg"), this.#ansibleConfig());
  }

  #ansibleConfig(): string {
    return [
      "[defaults]",
      `home = ${this.file("ansible")}`,
      `local_tmp = ${this.file("ansible/tmp")}`,
      `private_key_file = ${this.file("client_key")}`,
      "nocows = true",
      "[ssh_connection]",
      "pipelining = true",
      // No master connection, which would stay in the background after the playbook's end.
      "ssh_args = -F none -o ControlMaster=no -o BatchMode=yes -o IdentitiesOnly=yes " +
      `-o UserKnownHostsFile=${this.file("known_hosts")}`,
      "control_path = none",
      "",
    ].join("\n");
  }
}

/** One SSH server in the foreground. */
class SshServer implements AsyncDisposable {
  readonly pid: number;
  readonly #child: Deno.ChildProcess;
  #log = "";
  readonly #logged: Promise<void>;
  readonly #listens = Promise.withResolvers<void>();

  private constructor(child: Deno.ChildProcess) {
    this.#child = child;
    this.pid = child.pid;
    this.#logged = this.#collectLog();
  }

  /** @throws Error with what it says when it ends instead of listening */
  static async start([program, ...args]: string[]): Promise<SshServer> {
    const child = new Deno.Command(program!, {
      args,
      stdin: "null",
      stdout: "null",
      stderr: "piped",
    }).spawn();
    const server = new SshServer(child);
    await Promise.race([server.#listens.promise, server.#endsEarly()]);
    return server;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill("SIGTERM");
    await this.#child.status;
    await this.#logged;
  }

  async #collectLog(): Promise<void> {
    for await (const text of this.#child.stderr.pipeThrough(new TextDecoderStream())) {
      this.#log += text;
      if (this.#log.includes("Server listening")) this.#listens.resolve();
    }
  }

  async #endsEarly(): Promise<void> {
    await this.#logged;
    throw new Error(`The SSH server does not listen: ${this.#log}`);
  }
}

async function makeKey(path: string, signal: AbortSignal): Promise<void> {
  await run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", path], signal);
}

/** The port is the usual one: the namespace has it for itself. */
function serverConfig(host: TestHost, key: string, clientKey: string): string {
  return [
    `ListenAddress ${host.address}:22`,
    `HostKey ${key}`,
    `AuthorizedKeysFile ${clientKey}`,
    "PidFile none",
    "PermitRootLogin prohibit-password",
    "PasswordAuthentication no",
    "UsePAM no",
    // The folder of the keys is in one that everybody may write to.
    "StrictModes no",
    "",
  ].join("\n");
}

/**
 * sshd insists on a folder in /run that only its service makes. `ip netns exec` has given the process
 * mounts of its own: there it gets a /run of its own with that folder, and the machine's stays as it is.
 */
function serverCommand(config: string): string[] {
  const script = "mount -t tmpfs -o mode=755 run /run && mkdir -m 755 /run/sshd && " +
    'exec "$(command -v sshd)" -D -e -f "$1"';
  return ["sh", "-c", script, "sshd", config];
}

/** Empty when the process is gone (or a zombie). */
async function commandLine(pid: number): Promise<string> {
  try {
    return (await Deno.readTextFile(`/proc/${pid}/cmdline`)).replaceAll("\0", " ");
  } catch (error) {
    const gone = error instanceof Deno.errors.NotFound ||
      (error instanceof Error && error.message.includes("os error 3)"));
    if (gone) return "";
    throw error;
  }
}
