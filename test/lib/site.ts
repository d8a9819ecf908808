// The destination host of a test: a folder for the receiver's disks, sockets and temporary files, the
// receivers started on it, the guests that arrived, and what was left behind.

import { assertEquals } from "@std/assert";
import { abortable, delay } from "../../src/base/deadline.ts";
import type { Side } from "../../src/base/errors.ts";
import { QmpClient } from "../../src/qmp/client.ts";
import { type Account, Agent } from "./agents.ts";
import type { TestNet } from "./netns.ts";
import { TempDir } from "./temp.ts";

const LOOK_MS = 20;
/** Options of `receive` that say how senders are known. */
const OWN_WAYS = ["--secret-file", "--ticket-file", "--show-ticket", "--insecure"];

/** A receiver that listens. */
export interface Receiver {
  agent: Agent;
  address: string;
  port: number;
  /** The sender's options by which it reaches this receiver. */
  reach: string[];
}

export class TestSite implements AsyncDisposable {
  readonly disks: string;
  readonly run: string;
  /** Where the agents, the sender too, make their temporary folders. */
  readonly tmp: string;
  /** Each side's own, as on two hosts: where its agents keep their journals. */
  readonly stateDirs: Readonly<Record<Side, string>>;
  readonly #temp: TempDir;
  readonly #net: TestNet | undefined;
  readonly #agents: Agent[] = [];

  private constructor(temp: TempDir, net: TestNet | undefined) {
    this.#temp = temp;
    this.#net = net;
    this.disks = temp.file("disks");
    this.run = temp.file("run");
    this.tmp = temp.file("tmp");
    this.stateDirs = { source: temp.file("state-source"), destination: temp.file("state") };
  }

  /** With a network: receivers run on its right host, senders on its left one. */
  static async create(net?: TestNet): Promise<TestSite> {
    const site = new TestSite(await TempDir.create(), net);
    for (const folder of [site.disks, site.run, site.tmp]) await Deno.mkdir(folder);
    const secret = crypto.getRandomValues(new Uint8Array(32));
    await Deno.writeFile(site.#secretFile, secret, { mode: 0o600 });
    return site;
  }

  /** What agents here and their senders prove to know. */
  get #secretFile(): string {
    return this.#temp.file("secret");
  }

  /** The path of `name` on this host, beside its disks. */
  file(name: string): string {
    return this.#temp.file(name);
  }

  /** Starts a receiver, by default for one guest with its disks in `disks`, and waits until it listens. */
  async receive(args: readonly string[], signal: AbortSignal): Promise<Receiver> {
    const places = args.includes("--disk-dir") || args.includes("--adopt-qmp")
      ? []
      : ["--disk-dir", this.disks];
    // Unless the test has its own way: by a secret that both sides have.
    const proof = OWN_WAYS.some((way) => args.includes(way))
      ? []
      : ["--secret-file", this.#secretFile];
    const listen = this.#net ? ["--listen", `${this.#net.right.address}:0`] : [];
    const receive = ["receive", "--run-dir", this.run, ...listen, ...places, ...proof, ...args];
    const agent = this.start(receive, signal);
    const { host, port } = await agent.waitFor("listening");
    const address = `${host}:${port}`;
    const insecure = args.includes("--insecure") ? ["--insecure"] : [];
    return { agent, address, port, reach: ["--to", address, ...proof, ...insecure] };
  }

  /** Starts an agent that is ended with this host at the latest. */
  start(args: readonly string[], signal: AbortSignal): Agent {
    const side = args[0] === "receive" ? "destination" : "source";
    const host = side === "destination" ? this.#net?.right : this.#net?.left;
    const netns = host ? { netns: host.netns } : {};
    const agent = Agent.start([...args, "--state-dir", this.stateDirs[side]], {
      tmpDir: this.tmp,
      ...netns,
      signal,
    });
    this.#agents.push(agent);
    return agent;
  }

  /** The QEMU that a receiver has launched for the guest of that name. */
  async qemuPid(name = "guest"): Promise<number> {
    return Number(await Deno.readTextFile(`${this.run}/${name}/qemu.pid`));
  }

  /** Connects to the guest that went on here, by its account. */
  async openGuest(account: Account, signal: AbortSignal): Promise<ArrivedGuest> {
    const { qmp: path, pid } = account;
    if (path === null || pid === null) throw new Error("The account names no QEMU");
    return new ArrivedGuest(await QmpClient.connect(path, { signal }), { path, pid });
  }

  /** Checks that nothing of a migration is here any more: disks, sockets, processes, folders. */
  async assertEmpty(options: { disks?: string[] } = {}): Promise<void> {
    assertEquals(await namesIn(this.disks), options.disks ?? [], "disks left behind");
    assertEquals(await namesIn(this.run), [], "left behind in the run folder");
    await this.assertNoTemporaryFiles();
    assertEquals(await qemusNaming(this.#temp.path), [], "QEMU left behind");
  }

  async assertNoTemporaryFiles(): Promise<void> {
    assertEquals(await namesIn(this.tmp), [], "temporary files left behind");
  }

  /** Neither host has a journal any more, nor an agent's socket beside it. */
  async assertNoJournals(): Promise<void> {
    assertEquals(await this.#journals("source"), [], "journals left at the source");
    assertEquals(await this.#journals("destination"), [], "journals left at the destination");
  }

  /**
   * After a migration that failed: nothing at the source, and at the destination at most the word, for
   * a sender that might still ask, that the guest never ran there.
   */
  async assertNothingToResolve(): Promise<void> {
    assertEquals(await this.#journals("source"), [], "journals left at the source");
    const left = await this.#journals("destination");
    assertEquals(left.filter((journal) => !journal.endsWith(" never_ran")), [], "undecided");
  }

  /** Each journal's name and state, and what else is in the folder but its lock. */
  async #journals(side: Side): Promise<string[]> {
    const folder = this.stateDirs[side];
    const names = await exists(folder) ? await namesIn(folder) : [];
    return await Promise.all(
      names.filter((name) => name !== ".lock").map(async (name) => {
        if (!name.endsWith(".json")) return name;
        return `${name} ${JSON.parse(await Deno.readTextFile(`${folder}/${name}`)).state}`;
      }),
    );
  }

  /** Ends every agent and QEMU of this host and removes its folder. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const agent of this.#agents) await agent[Symbol.asyncDispose]();
    for (const pid of await qemusNaming(this.#temp.path)) await endProcess(pid);
    await this.#temp[Symbol.asyncDispose]();
  }
}

/** A guest that goes on at the destination, in a QEMU that its own starter has left to itself. */
export class ArrivedGuest implements AsyncDisposable {
  readonly qmp: QmpClient;
  readonly qmpPath: string;
  readonly pid: number;

  constructor(qmp: QmpClient, { path, pid }: { path: string; pid: number }) {
    this.qmp = qmp;
    this.qmpPath = path;
    this.pid = pid;
  }

  /** `quit`, and the wait for its end. */
  async end(signal: AbortSignal): Promise<void> {
    const ended = Promise.withResolvers<void>();
    this.qmp.ended.addEventListener("abort", () => ended.resolve());
    await this.qmp.execute("quit", {}, { signal });
    await abortable(ended.promise, signal);
    while (await commandLine(this.pid) !== "") await delay(LOOK_MS, signal);
  }

  /** Lets go of its monitor, for whoever moves it next. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.qmp.close();
  }
}

async function exists(path: string): Promise<boolean> {
  try {
    await Deno.stat(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

async function namesIn(folder: string): Promise<string[]> {
  const names: string[] = [];
  for await (const entry of Deno.readDir(folder)) names.push(entry.name);
  return names.sort();
}

/** Processes of QEMU whose command line has `path` in it. */
async function qemusNaming(path: string): Promise<number[]> {
  const found: number[] = [];
  for await (const entry of Deno.readDir("/proc")) {
    const pid = Number(entry.name);
    if (!Number.isInteger(pid)) continue;
    const line = await commandLine(pid);
    if (line.includes(path) && /^\S*(qemu-system|ld-linux)/.test(line)) found.push(pid);
  }
  return found;
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

async function endProcess(pid: number): Promise<void> {
  Deno.kill(pid, "SIGKILL");
  while (await commandLine(pid) !== "") await delay(LOOK_MS);
}
