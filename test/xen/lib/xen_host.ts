// A real Xen host for one test: hypervisor, dom0 with xl and the device model, all of it emulated by
// one QEMU process. `await using host = await XenHost.boot({ name: "a", signal });`
// XEN_RIG names the folder that test/xen/rig/build has made (scripts/test sees to it).

import { capture, type CommandOutput, run } from "../../lib/command.ts";
import { agentExecutable, requires } from "../../lib/requires.ts";
import { TempDir } from "../../lib/temp.ts";
import { TestVm } from "../../lib/vm.ts";
import { Console, type ConsoleLine } from "./console.ts";
import { Shell } from "./shell.ts";

/** In MiB: the host, and dom0's share of it; the rest is for guests. */
const HOST_MEMORY = 1280;
const DOM0_MEMORY = 768;
/** Free space in the file system of what is shared. */
const SHARE_SLACK_BYTES = 16 * 2 ** 20;

/** The end of a cable between two hosts: a unix socket on which one of them listens. */
export interface Plug {
  path: string;
  listens: boolean;
  /** This host's IPv4 address on it, in a network of 24 bits. */
  address: string;
}

export interface XenHostOptions {
  name: string;
  /** A folder that dom0 finds at /mnt, read-only, as it is now. Default: that of the program under test. */
  share?: string;
  plug?: Plug;
  signal: AbortSignal;
}

/** What tests with Xen hosts need: spread into a `Deno.test` definition. */
export function requiresXen(): { ignore: boolean } {
  const rig = Deno.env.get("XEN_RIG");
  const hypervisor = rig ? `${rig}/xen` : "the Xen hosts of test/xen/rig/build in XEN_RIG";
  return requires("qemu-system-x86_64", "mkfs.ext4", "ssh", "setpriv", hypervisor);
}

export class XenHost implements AsyncDisposable {
  readonly name: string;
  readonly console: Console;
  readonly #temp: TempDir;
  readonly #vm: TestVm;
  #shell: Shell | undefined;

  private constructor(name: string, parts: { temp: TempDir; vm: TestVm; console: Console }) {
    this.name = name;
    this.console = parts.console;
    this.#temp = parts.temp;
    this.#vm = parts.vm;
  }

  /** Boots it until xl works and commands can be run. @throws Error with the end of its console */
  static async boot(options: XenHostOptions): Promise<XenHost> {
    const starting = await XenHost.start(options);
    return await starting.booted;
  }

  /** Like `boot`, in two steps: resolves when QEMU runs, and with it listens on its plug. */
  static async start(options: XenHostOptions): Promise<{ booted: Promise<XenHost> }> {
    const { name, signal } = options;
    const temp = await TempDir.create();
    try {
      const share = await makeShare(temp, options);
      using listener = Deno.listen({ transport: "unix", path: temp.file("console") });
      const args = [
        ...hostArgs(options),
        ...["-chardev", `socket,id=console,path=${temp.file("console")}`],
        ...["-serial", "chardev:console"],
        ...["-drive", `file=${share},if=none,id=share,format=raw,readonly=on`],
        ...["-device", "virtio-blk-pci,drive=share"],
      ];
      const vm = await TestVm.start(args, { signal });
      const console = new Console((await listener.accept()).readable);
      const host = new XenHost(name, { temp, vm, console });
      const booted = host.#finishBoot(signal);
      booted.catch(() => {}); // whoever waits for it gets the error
      return { booted };
    } catch (error) {
      await temp[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Runs bash commands in dom0, whatever their exit code. Cancelling leaves what runs there running. */
  async run(commands: string, { signal }: { signal: AbortSignal }): Promise<CommandOutput> {
    return await capture(this.inside(["bash", "-c", commands]), signal);
  }

  /** Like `run`, for commands that must succeed; gives their stdout. @throws Error with their output */
  async check(commands: string, { signal }: { signal: AbortSignal }): Promise<string> {
    const { code, stdout, stderr } = await this.run(commands, { signal });
    if (code === 0) return stdout;
    const said = `${stderr}${stdout}`.trimEnd();
    throw new Error(
      `On host ${this.name} '${commands}' failed with exit code ${code}:\n${said}\n` +
        this.console.tail(),
    );
  }

  /** `argv` as a command for this machine that runs it in dom0, for whoever starts processes. */
  inside(argv: readonly string[]): string[] {
    if (!this.#shell) throw new Error(`Host ${this.name} has not booted`);
    return this.#shell.inside(argv);
  }

  /** Writes a file in dom0. */
  async writeFile(
    path: string,
    content: Uint8Array<ArrayBuffer>,
    { signal }: { signal: AbortSignal },
  ): Promise<void> {
    const [program, ...args] = this.inside(["bash", "-c", 'cat > "$0"', path]);
    const child = new Deno.Command(program!, { args, stdin: "piped", stderr: "inherit", signal })
      .spawn();
    await ReadableStream.from([content]).pipeTo(child.stdin);
    const { code } = await child.status;
    signal.throwIfAborted();
    if (code !== 0) throw new Error(`Cannot write ${path} on host ${this.name}: exit code ${code}`);
  }

  /** Drops every frame between the hosts from now on, in silence. Cannot be repeated. */
  async cut(signal: AbortSignal): Promise<void> {
    await this.#vm.monitor.execute("object-add", CUT, { signal });
  }

  /** Ends a cut. */
  async restore(signal: AbortSignal): Promise<void> {
    await this.#vm.monitor.execute("object-del", { id: CUT.id }, { signal });
  }

  /** Resident memory of its QEMU in bytes. */
  async memoryBytes(): Promise<number> {
    const status = await Deno.readTextFile(`/proc/${this.#vm.pid}/status`);
    return 1024 * Number(status.match(/^VmRSS:\s+([0-9]+) kB$/m)?.[1]);
  }

  /** Ends its QEMU as a power cut would, and removes all that it wrote. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#shell?.[Symbol.asyncDispose]();
    await this.#vm[Symbol.asyncDispose]();
    await this.console.ended();
    await this.#temp[Symbol.asyncDispose]();
  }

  async #finishBoot(signal: AbortSignal): Promise<XenHost> {
    try {
      const isLast = ({ text }: ConsoleLine) => /rig: (ready|failed)/.test(text);
      const { text } = await this.console.waitFor(isLast, { signal });
      if (!text.includes("ready")) throw new Error(`xl does not work\n${this.console.tail()}`);
      this.#shell = await Shell.connect({
        port: await this.#findPort(signal),
        rig: rigFolder(),
        file: (name) => this.#temp.file(name),
        signal,
      });
      return this;
    } catch (error) {
      await this[Symbol.asyncDispose]();
      throw new Error(`Cannot boot host ${this.name}`, { cause: error });
    }
  }

  /** Where QEMU takes connections to dom0's SSH server: it has chosen the port itself. */
  async #findPort(signal: AbortSignal): Promise<number> {
    const args = { "command-line": "info usernet" };
    const text = await this.#vm.monitor.execute("human-monitor-command", args, { signal });
    const port = String(text).match(/TCP\[HOST_FORWARD\]\s+\S+\s+127\.0\.0\.1\s+([0-9]+)/)?.[1];
    if (port) return Number(port);
    throw new Error(`QEMU forwards no port to host ${this.name}: ${text}`);
  }
}

/** What swallows the frames of a link that is cut. */
const CUT = {
  "qom-type": "filter-redirector",
  id: "cut",
  netdev: "plug",
  queue: "all",
  outdev: "nowhere",
} as const;

function rigFolder(): string {
  const rig = Deno.env.get("XEN_RIG");
  if (rig) return rig;
  throw new Error("Set XEN_RIG to a folder that test/xen/rig/build has made");
}

/** A file system with what dom0 shall find at /mnt. */
async function makeShare(temp: TempDir, options: XenHostOptions): Promise<string> {
  const folder = options.share ?? agentExecutable().replace(/\/[^/]*$/, "");
  const path = temp.file("share");
  const used = await run(["du", "-sb", folder], options.signal);
  await Deno.writeFile(path, new Uint8Array());
  await Deno.truncate(path, Math.ceil(parseInt(used) * 1.1) + SHARE_SLACK_BYTES);
  await run(["mkfs.ext4", "-q", "-O", "^has_journal", "-d", folder, path], options.signal);
  return path;
}

function hostArgs({ name, plug }: XenHostOptions): string[] {
  const rig = rigFolder();
  const dom0 = [
    ...["console=hvc0", "mitigations=off", "random.trust_cpu=on", "panic=5", "loglevel=4"],
    ...[`rig.name=${name}`, ...(plug ? [`rig.address=${plug.address}`] : [])],
  ];
  const xen = [
    // Guests' debug port is shown too: the tiny guest speaks through it.
    ...["console=com1", "com1=115200,8n1", "loglvl=all", "guest_loglvl=all", "noreboot"],
    ...["spec-ctrl=no", "xpti=off", "bootscrub=no", "dom0_max_vcpus=1"],
    `dom0_mem=${DOM0_MEMORY}M,max:${DOM0_MEMORY}M`,
  ];
  return [
    // Without nested paging a guest under emulation would hardly move.
    ...["-machine", "pc", "-cpu", "qemu64,+svm,+npt,+rdrand", "-m", String(HOST_MEMORY)],
    ...["-nodefaults", "-no-reboot", "-kernel", `${rig}/xen`, "-append", xen.join(" ")],
    ...["-initrd", `${rig}/vmlinuz ${dom0.join(" ")},${rig}/initrd.gz`],
    // What dom0 writes goes to a file that QEMU has unlinked.
    ...["-drive", `file=${rig}/rootfs.ext4,if=none,id=root,format=raw,snapshot=on,cache=unsafe`],
    ...["-device", "virtio-blk-pci,drive=root"],
    ...["-netdev", "user,id=control,restrict=on,hostfwd=tcp:127.0.0.1:0-10.0.2.15:22"],
    ...["-device", "virtio-net-pci,netdev=control,mac=52:54:00:98:00:01,romfile="],
    ...(plug ? plugArgs(plug) : []),
  ];
}

function plugArgs({ path, listens, address }: Plug): string[] {
  const last = Number(address.split(".").at(-1)).toString(16).padStart(2, "0");
  const server = listens ? "on" : "off";
  return [
    ...["-netdev", `stream,id=plug,server=${server},addr.type=unix,addr.path=${path}`],
    ...["-device", `virtio-net-pci,netdev=plug,mac=52:54:00:99:00:${last},romfile=`],
    ...["-chardev", "null,id=nowhere"],
  ];
}
