// Two hosts with a network of their own between them, and the program's commands run on either: for
// tests that look at what is on that network.

import { agentCommand } from "../lib/agents.ts";
import { capture, type CommandOutput, run } from "../lib/command.ts";
import { makeImage } from "../lib/disks.ts";
import { attach, makeBootDisk } from "../lib/moving.ts";
import { type TestHost, TestNet } from "../lib/netns.ts";
import { TestSite } from "../lib/site.ts";
import { TempDir } from "../lib/temp.ts";
import { TestVm } from "../lib/vm.ts";

const MIB = 2 ** 20;
const TURNS = 20;

export class TwoHosts implements AsyncDisposable {
  readonly net: TestNet;
  readonly source: TestVm;
  readonly site: TestSite;
  readonly temp: TempDir;
  readonly #resources: AsyncDisposableStack;

  private constructor(resources: AsyncDisposableStack, parts: {
    net: TestNet;
    source: TestVm;
    site: TestSite;
    temp: TempDir;
  }) {
    this.net = parts.net;
    this.source = parts.source;
    this.site = parts.site;
    this.temp = parts.temp;
    this.#resources = resources;
  }

  /**
   * A guest runs on the left host; its second disk begins with `content`. On a network of its own,
   * unless one is given, which stays.
   */
  static async create(
    { content, net: given, signal }: { content: Uint8Array; net?: TestNet; signal: AbortSignal },
  ): Promise<TwoHosts> {
    await using resources = new AsyncDisposableStack();
    const net = given ?? resources.use(await TestNet.create(signal));
    const temp = resources.use(await TempDir.create());
    const site = resources.use(await TestSite.create());
    await makeImage(temp.file("data"), { format: "raw", sizeBytes: 8 * MIB, content, signal });
    await makeBootDisk(temp.file("boot"), { guest: { diskMask: 1 }, signal });
    const machine = ["-name", "moved", "-m", "64", ...attach(temp.file("boot"), temp.file("data"))];
    const source = resources.use(await TestVm.start(machine, { signal, netns: net.left.netns }));
    await source.waitForCountAbove(TURNS, signal);
    return new TwoHosts(resources.move(), { net, source, site, temp });
  }

  /** Starts a receiver on the right host that lives on by itself; its address. */
  async receive(
    args: readonly string[],
    signal: AbortSignal,
  ): Promise<{ address: string; pid: number; log: string }> {
    const { right } = this.net;
    const output = await this.run(right, [
      ...["receive", "--detach", "--listen", `${right.address}:0`, "--json"],
      ...["--disk-dir", this.site.disks, "--run-dir", this.site.run],
      ...["--state-dir", this.site.stateDirs.destination, ...args],
    ], signal);
    const { host, port, pid, log } = JSON.parse(output);
    return { address: `${host}:${port}`, pid, log };
  }

  /** Arguments of a sender for the guest, which must not end its QEMU. */
  send(args: readonly string[]): string[] {
    const { qmpPath } = this.source;
    return [
      ...["send", "-q", "--json", "--qmp", qmpPath, "--source-after", "paused"],
      ...["--state-dir", this.site.stateDirs.source, ...args],
    ];
  }

  /** Runs the program on a host to its end. @throws Error with its output unless it succeeds */
  async run(host: TestHost, args: readonly string[], signal: AbortSignal): Promise<string> {
    return await run(this.#command(host, args), signal);
  }

  /** The same, whatever its end. */
  async capture(
    host: TestHost,
    args: readonly string[],
    signal: AbortSignal,
  ): Promise<CommandOutput> {
    return await capture(this.#command(host, args), signal);
  }

  #command(host: TestHost, args: readonly string[]): string[] {
    const env = ["env", `TMPDIR=${this.site.tmp}`, "NO_COLOR=1"];
    return this.net.inside(host, [...env, ...agentCommand(), ...args]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#resources.disposeAsync();
  }
}
