// One host of the fault matrix: its folders, its journals, the agents started on it, what is left there.

import type { JournalRecord } from "../../src/migration/journal_record.ts";
import { Agent, agentCommand } from "../lib/agents.ts";
import { run } from "../lib/command.ts";
import type { TestHost } from "../lib/netns.ts";
import { TempDir } from "../lib/temp.ts";

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
  async journals(signal: AbortSignal): Promise<Pick<JournalRecord, "migration_id" | "state">[]> {
    const { code, text } = await this.#command(["status", "--json"], signal);
    if (code !== 0) throw new Error(`status: exit code ${code}: ${text}`);
    return JSON.parse(text).migrations;
  }

  resolve(
    id: string,
    args: string[],
    signal: AbortSignal,
  ): Promise<{ code: number; text: string }> {
    return this.#command(["resolve", id, ...args], signal);
  }

  /** The QMP socket of the guest that lives here; null when none does. */
  async guestQmp(): Promise<string | null> {
    return (await this.#qemus()).length === 0 ? null : `${this.run}/guest/qmp.sock`;
  }

  async killQemu(): Promise<void> {
    for (const pid of await this.#qemus()) Deno.kill(pid, "SIGKILL");
  }

  async fillDisk(signal: AbortSignal): Promise<void> {
    // `fallocate` takes what is there and fails for the rest.
    await run(
      ["sh", "-c", `cat /dev/zero > "$1/filler" 2>/dev/null || true`, "sh", this.disks],
      signal,
    );
  }

  async freeDisk(_signal: AbortSignal): Promise<void> {
    await Deno.remove(`${this.disks}/filler`).catch((error) => {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    });
  }

  /** Removes what is in the way of a guest that comes (back). */
  async clearDisks(originals: readonly string[]): Promise<void> {
    for (const path of originals) {
      const name = path.slice(path.lastIndexOf("/") + 1);
      await Deno.remove(`${this.disks}/${name}`).catch((error) => {
        if (!(error instanceof Deno.errors.NotFound)) throw error;
      });
    }
  }

  /** What a migration that has ended must not leave here. */
  async leftovers(
    signal: AbortSignal,
    { hasGuest = false }: { hasGuest?: boolean } = {},
  ): Promise<string[]> {
    const left: string[] = [];
    for (const { migration_id, state } of await this.journals(signal)) {
      // A tombstone answers whoever asks late; the guest's own journal says where it is.
      const stays = state === "never_ran" || state === "ended" || (hasGuest && state === "running");
      if (!stays) left.push(`journal ${migration_id} (${state})`);
    }
    for (const name of namesIn(this.#state)) {
      if (!/^(.*\.json|\.?lock)$/.test(name)) left.push(`${name} in the state folder`);
    }
    for (const name of namesIn(this.#tmp)) left.push(`temporary ${name}`);
    if (!hasGuest) {
      for (const name of namesIn(this.run)) left.push(`${name} in the run folder`);
      for (const name of namesIn(this.disks)) {
        if (name !== "filler") left.push(`disk ${name}`);
      }
      for (const pid of await this.#qemus()) left.push(`QEMU ${pid}`);
    }
    return left;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const agent of this.#agents) await agent[Symbol.asyncDispose]();
    await this.killQemu();
    while ((await this.#qemus()).length > 0) await new Promise((done) => setTimeout(done, 10));
    const never = new AbortController().signal;
    if (this.#mounted) await run(["umount", this.disks], never);
    await this.#temp[Symbol.asyncDispose]();
  }

  async #command(
    args: readonly string[],
    signal: AbortSignal,
  ): Promise<{ code: number; text: string }> {
    const [program, ...first] = agentCommand();
    const { code, stdout, stderr } = await new Deno.Command("ip", {
      args: [
        ...["netns", "exec", this.#netns, program!, ...first, ...args],
        ...["--state-dir", this.#state],
      ],
      env: { TMPDIR: this.#tmp, NO_COLOR: "1" },
      stdin: "null",
      signal,
    }).output();
    const text = new TextDecoder();
    return { code, text: (text.decode(stdout) + text.decode(stderr)).trim() };
  }

  /** Processes of QEMU that were started here, by the folder in their command line. */
  async #qemus(): Promise<number[]> {
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
