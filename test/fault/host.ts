// One host of the fault matrix: its folders, its journals, the agents started on it, what is left there.

import type {
  MigrationAccount,
  ResolvedLine,
  StatusLine,
} from "../../src/cli/journal_documents.ts";
import { Agent, agentCommand } from "../lib/agents.ts";
import { capture, type CommandOutput, run } from "../lib/command.ts";
import type { TestHost } from "../lib/netns.ts";
import { TempDir } from "../lib/temp.ts";

/** What `resolve` came to. */
export interface Resolved {
  code: number;
  /** All that it said. */
  text: string;
  /** Null when it failed. */
  document: ResolvedLine | null;
}

/** Room for the disks of the case, and not much more. */
const DISK_BYTES = 160 * 2 ** 20;

export class Host implements AsyncDisposable {
  readonly disks: string;
  readonly run: string;
  readonly #tmp: string;
  readonly #state: string;
  readonly #temp: TempDir;
  readonly #netns: string;
  readonly #agents: Agent[] = [];
  #mounted = false;

  private constructor(temp: TempDir, netns: string) {
    this.#temp = temp;
    this.#netns = netns;
    this.disks = temp.file("disks");
    this.run = temp.file("run");
    this.#tmp = temp.file("tmp");
    this.#state = temp.file("state");
  }

  /** `fullDisk`: its disks lie on a small file system of their own, which can be filled. */
  static async create(
    options: { netns: TestHost; fullDisk: boolean },
    signal: AbortSignal,
  ): Promise<Host> {
    const host = new Host(await TempDir.create(), options.netns.netns);
    try {
      for (const folder of [host.disks, host.run, host.#tmp]) await Deno.mkdir(folder);
      if (options.fullDisk) {
        await run(
          ["mount", "-t", "tmpfs", "-o", `size=${DISK_BYTES}`, "fault", host.disks],
          signal,
        );
        host.#mounted = true;
      }
      return host;
    } catch (error) {
      await host[Symbol.asyncDispose]();
      throw error;
    }
  }

  file(name: string): string {
    return this.#temp.file(name);
  }

  start(args: readonly string[], signal: AbortSignal): Agent {
    const agent = Agent.start([...args, "--state-dir", this.#state], {
      tmpDir: this.#tmp,
      netns: this.#netns,
      signal,
    });
    this.#agents.push(agent);
    return agent;
  }

  /** What `status` says of the migrations that have a journal here. */
  async status(signal: AbortSignal): Promise<MigrationAccount[]> {
    const { code, stdout, stderr } = await this.#command(["status", "--json"], signal);
    if (code !== 0) throw new Error(`status: exit code ${code}: ${stderr}`);
    const { migrations, damaged } = JSON.parse(stdout) as StatusLine;
    if (damaged.length > 0) throw new Error(`status: damaged journals: ${JSON.stringify(damaged)}`);
    return migrations;
  }

  /** Runs `resolve` with those words. */
  async resolve(words: readonly string[], signal: AbortSignal): Promise<Resolved> {
    const { code, stdout, stderr } = await this.#command(["resolve", ...words, "--json"], signal);
    const said: unknown = JSON.parse(stdout.trim().split("\n").at(-1) ?? "null");
    return {
      code,
      text: `${stdout}${stderr}`.trim(),
      document: code === 0 ? said as ResolvedLine : null,
    };
  }

  /** The QMP socket of the guest that lives here; null when none does. */
  async guestQmp(): Promise<string | null> {
    return (await this.qemus()).length === 0 ? null : `${this.run}/guest/qmp.sock`;
  }

  async killQemu(): Promise<void> {
    for (const pid of await this.qemus()) Deno.kill(pid, "SIGKILL");
  }

  async fillDisk(signal: AbortSignal): Promise<void> {
    // `fallocate` takes what is there and fails for the rest.
    await run(
      ["sh", "-c", `cat /dev/zero > "$1/filler" 2>/dev/null || true`, "sh", this.disks],
      signal,
    );
  }

  async freeDisk(): Promise<void> {
    await removeIfThere(`${this.disks}/filler`);
  }

  /** Removes what is in the way of a guest that comes (back). */
  async clearDisks(originals: readonly string[]): Promise<void> {
    for (const path of originals) await removeIfThere(this.placeOf(path));
  }

  /** Where a disk of the other host comes to lie here. */
  placeOf(original: string): string {
    return `${this.disks}/${original.slice(original.lastIndexOf("/") + 1)}`;
  }

  /**
   * What a migration that has ended must not leave here.
   * @param options.holds what belongs here: a guest that runs, its disks alone (it has died here), or
   *   nothing
   */
  async leftovers(
    signal: AbortSignal,
    { holds = "nothing" }: { holds?: "guest" | "disks" | "nothing" } = {},
  ): Promise<string[]> {
    const left: string[] = [];
    for (const { migration_id, state, next, meaning } of await this.status(signal)) {
      // A tombstone answers whoever asks late; the guest's own journal says where it is.
      if (next !== null) left.push(`journal ${migration_id} (${state}: ${meaning}; ${next})`);
      if (state === "kept" || state === "handed_over") {
        left.push(`journal ${migration_id} (${state}), which nobody can ask for`);
      }
    }
    for (const name of namesIn(this.#state)) {
      if (!/^(.*\.json|\.?lock)$/.test(name)) left.push(`${name} in the state folder`);
    }
    for (const name of namesIn(this.#tmp)) left.push(`temporary ${name}`);
    if (holds === "nothing") {
      for (const name of namesIn(this.run)) left.push(`${name} in the run folder`);
      for (const name of namesIn(this.disks)) {
        if (name !== "filler") left.push(`disk ${name}`);
      }
    }
    if (holds !== "guest") { for (const pid of await this.qemus()) left.push(`QEMU ${pid}`); }
    return left;
  }

  /** Processes that run on this host. */
  async processes(signal: AbortSignal): Promise<number[]> {
    const text = await run(["ip", "netns", "pids", this.#netns], signal);
    return text.split("\n").filter((line) => line !== "").map(Number);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const agent of this.#agents) await agent[Symbol.asyncDispose]();
    await this.killQemu();
    while ((await this.qemus()).length > 0) await new Promise((done) => setTimeout(done, 10));
    const never = new AbortController().signal;
    if (this.#mounted) await run(["umount", this.disks], never);
    await this.#temp[Symbol.asyncDispose]();
  }

  #command(args: readonly string[], signal: AbortSignal): Promise<CommandOutput> {
    const env = ["env", `TMPDIR=${this.#tmp}`, "NO_COLOR=1"];
    const words = [...agentCommand(), ...args, "--state-dir", this.#state];
    return capture(["ip", "netns", "exec", this.#netns, ...env, ...words], signal);
  }

  /** Processes of QEMU that were started here, by the folder in their command line. */
  async qemus(): Promise<number[]> {
    const found: number[] = [];
    for await (const { name } of Deno.readDir("/proc")) {
      const pid = Number(name);
      if (!Number.isInteger(pid)) continue;
      const line = await commandLine(pid);
      if (line.includes(this.run) && /^\S*qemu-system/.test(line)) found.push(pid);
    }
    return found;
  }
}

async function removeIfThere(path: string): Promise<void> {
  try {
    await Deno.remove(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

function namesIn(folder: string): string[] {
  try {
    return [...Deno.readDirSync(folder)].map(({ name }) => name);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw error;
  }
}

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
