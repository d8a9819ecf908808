// Commands on a Xen host, by SSH through a port of 127.0.0.1 that QEMU passes on to dom0: one connection
// for all of them, because an emulated host takes long for each.

import { delay } from "../../../src/base/deadline.ts";
import { capture, type CommandOutput } from "../../lib/command.ts";

const LOOK_MS = 50;

export interface ShellOptions {
  /** Where QEMU takes connections for dom0's SSH server. */
  port: number;
  /** The folder that test/xen/rig/build has made: it holds the key. */
  rig: string;
  /** Makes paths in a folder of the host's own. */
  file: (name: string) => string;
  signal: AbortSignal;
}

export class Shell implements AsyncDisposable {
  readonly #config: string;
  readonly #master: Deno.ChildProcess;
  readonly #log: Promise<string>;

  private constructor(config: string, master: Deno.ChildProcess) {
    this.#config = config;
    this.#master = master;
    this.#log = new Response(master.stderr).text();
  }

  /** Connects. @throws Error with what ssh says */
  static async connect({ port, rig, file, signal }: ShellOptions): Promise<Shell> {
    const config = file("ssh_config");
    await Deno.writeTextFile(
      config,
      [
        "Host dom0",
        ...["HostName 127.0.0.1", `Port ${port}`, "User root", "BatchMode yes", "LogLevel ERROR"],
        ...[
          `IdentityFile "${rig}/key"`,
          "IdentitiesOnly yes",
          `UserKnownHostsFile "${rig}/known_hosts"`,
        ],
        ...[`ControlPath "${file("ssh")}"`],
        "",
      ].join("\n"),
    );
    const args = ["--pdeathsig", "KILL", "ssh", "-F", config, "-M", "-N", "dom0"];
    const master = new Deno.Command("setpriv", {
      args,
      stdin: "null",
      stdout: "null",
      stderr: "piped",
    }).spawn();
    const shell = new Shell(config, master);
    try {
      await shell.#waitConnected(signal);
      return shell;
    } catch (error) {
      await shell[Symbol.asyncDispose]();
      throw error;
    }
  }

  /**
   * `argv` as a command that runs on the host. Ending the command here does not end the one there.
   */
  inside(argv: readonly string[]): string[] {
    return ["ssh", "-F", this.#config, "dom0", argv.map(quoteWord).join(" ")];
  }

  /** Ends the connection and with it the commands here, whose programs there go on. */
  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#master.kill("SIGTERM");
    } catch (error) {
      // Deno knows that it has ended already.
      if (!(error instanceof TypeError)) throw error;
    }
    await this.#master.status;
    await this.#log;
  }

  async #waitConnected(signal: AbortSignal): Promise<void> {
    const ended = this.#master.status.then(async ({ code }) => {
      throw new Error(
        `Cannot reach the host: ssh ended with exit code ${code}: ${await this.#log}`,
      );
    });
    const connected = (async () => {
      // ssh tells nobody that it is connected; its control socket does.
      while (!(await this.#check(signal))) await delay(LOOK_MS, signal);
    })();
    await Promise.race([connected, ended]);
    ended.catch(() => {}); // later it is no failure any more
  }

  async #check(signal: AbortSignal): Promise<boolean> {
    const argv = ["ssh", "-F", this.#config, "-O", "check", "dom0"];
    const { code }: CommandOutput = await capture(argv, signal);
    return code === 0;
  }
}

/** A word as a shell reads it back. */
function quoteWord(word: string): string {
  return `'${word.replaceAll("'", "'\\''")}'`;
}
