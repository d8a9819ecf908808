// A real QEMU process for one test: `await using vm = await TestVm.start([...], { signal });`.
// Emulated (TCG), without a display. It has two QMP monitors: `qmpPath`, which is left to whatever
// is tested (a QMP socket serves one client at a time), and `monitor`, the test's own.

import { abortable, delay } from "../../src/base/deadline.ts";
import { AgentError } from "../../src/base/errors.ts";
import {
  parseMonitorDump,
  parseStatus,
  STATUS_COMMAND,
  type TinyGuestStatus,
} from "../../src/demo_guest/guest.ts";
import { QmpClient } from "../../src/qmp/client.ts";
import { TempDir } from "./temp.ts";

/** Hardware for the tiny guest without disks: nothing that it does not need, so that it boots fast. */
export const TINY_GUEST_ARGS: readonly string[] = ["-nodefaults", "-m", "64"];

/** Between two looks at the guest's counter: it lies in guest memory, and no event tells of it. */
const POLL_MS = 20;

export interface TestVmOptions {
  signal: AbortSignal;
  /** Default: `qemu-system-x86_64` from PATH. */
  binary?: string;
  /** Names a network namespace to run in. */
  netns?: string;
  /** No `-accel tcg`, because the arguments choose one. */
  ownAccel?: boolean;
}

export class TestVm implements AsyncDisposable {
  /** The QMP socket for the program under test. */
  readonly qmpPath: string;
  readonly pid: number;
  /** Ends with QEMU, whatever ended it. */
  readonly ended: Promise<Deno.CommandStatus>;
  readonly #temp: TempDir;
  readonly #child: Deno.ChildProcess;
  readonly #logged: Promise<void>;
  #log = "";
  #monitor: QmpClient | undefined;

  private constructor(temp: TempDir, child: Deno.ChildProcess) {
    this.#temp = temp;
    this.#child = child;
    this.qmpPath = temp.file("qmp");
    this.pid = child.pid;
    this.ended = child.status;
    this.#logged = this.#collectLog();
  }

  /**
   * Starts QEMU and returns once its monitors answer; with `-S` or `-incoming` in `args` the guest
   * does not run yet. @throws Error with QEMU's output when it ends instead
   */
  static async start(args: readonly string[], options: TestVmOptions): Promise<TestVm> {
    options.signal.throwIfAborted();
    const temp = await TempDir.create();
    // QEMU connects to the test here, and not the other way round: that tells when it is ready.
    using listener = Deno.listen({ transport: "unix", path: temp.file("monitor") });
    const argv = [
      ...(options.netns ? ["ip", "netns", "exec", options.netns] : []),
      // QEMU dies with the test process, however that ends.
      ...["setpriv", "--pdeathsig", "KILL", options.binary ?? "qemu-system-x86_64"],
      ...(options.ownAccel ? [] : ["-accel", "tcg"]),
      ...["-display", "none", "-qmp", `unix:${temp.file("qmp")},server=on,wait=off`],
      ...["-chardev", `socket,id=test-monitor,path=${temp.file("monitor")}`],
      ...["-mon", "chardev=test-monitor,mode=control", ...args],
    ];
    const child = new Deno.Command(argv[0]!, {
      args: argv.slice(1),
      stdin: "null",
      stdout: "null",
      stderr: "piped",
    }).spawn();
    const vm = new TestVm(temp, child);
    try {
      await vm.#openMonitor(listener, options.signal);
      return vm;
    } catch (error) {
      await vm[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** The test's own QMP connection. */
  get monitor(): QmpClient {
    if (!this.#monitor) throw new Error(`QEMU ${this.pid} has no monitor connection`);
    return this.#monitor;
  }

  /** What QEMU has printed on stderr so far. */
  get log(): string {
    return this.#log;
  }

  /** QEMU's run state: `running`, `paused`, `inmigrate`, `postmigrate`, ... */
  async runState(signal: AbortSignal): Promise<string> {
    const status = await this.monitor.execute("query-status", {}, { signal });
    return (status as { status: string }).status;
  }

  /** What the tiny guest says about itself. @throws Error while it is not up */
  readGuest(signal: AbortSignal): Promise<TinyGuestStatus> {
    return readGuest(this.monitor, signal);
  }

  /** Waits for the tiny guest's counter to pass `count`; its status then. */
  waitForCountAbove(count: number, signal: AbortSignal): Promise<TinyGuestStatus> {
    return waitForCountAbove(this.monitor, { count, signal });
  }

  /** Sends QEMU a signal. */
  kill(signo: Deno.Signal): void {
    this.#child.kill(signo);
  }

  /** Kills QEMU if it still runs, shows what it had printed, removes its folder. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#monitor?.close();
    this.#killIfRunning();
    await this.ended;
    await this.#logged;
    if (this.#log !== "") console.error(`QEMU ${this.pid} printed:\n${this.#log.trimEnd()}`);
    await this.#temp[Symbol.asyncDispose]();
  }

  async #openMonitor(listener: Deno.UnixListener, signal: AbortSignal): Promise<void> {
    const stop = new AbortController();
    this.ended.then(async (status) => {
      await this.#logged;
      stop.abort(new Error(`QEMU ended with exit code ${status.code}:\n${this.#log}`));
    });
    const either = { signal: AbortSignal.any([signal, stop.signal]) };
    const conn = await abortable(listener.accept(), either.signal);
    try {
      this.#monitor = await QmpClient.open(this.#temp.file("monitor"), conn, either);
    } catch (error) {
      // QEMU opens its monitors before it looks at the rest of its options: say what it says.
      if (error instanceof AgentError && error.code === "qmp_lost") {
        await abortable(this.ended, signal);
        await this.#logged;
        throw new Error(`QEMU ended before it was ready:\n${this.#log}`, { cause: error });
      }
      throw error;
    }
  }

  async #collectLog(): Promise<void> {
    for await (const text of this.#child.stderr.pipeThrough(new TextDecoderStream())) {
      this.#log += text;
    }
  }

  #killIfRunning(): void {
    try {
      this.#child.kill("SIGKILL");
    } catch (error) {
      // Deno knows that it has ended already.
      if (!(error instanceof TypeError)) throw error;
    }
  }
}

/** The tiny guest's status through any QMP connection. @throws Error while the guest is not up */
export async function readGuest(qmp: QmpClient, signal: AbortSignal): Promise<TinyGuestStatus> {
  const status = await readGuestIfUp(qmp, signal);
  if (status) return status;
  throw new Error("The tiny guest is not up: there is no status in its memory");
}

/** Waits for the tiny guest's counter to pass `count`; its status then. */
export async function waitForCountAbove(
  qmp: QmpClient,
  options: { count: number; signal: AbortSignal },
): Promise<TinyGuestStatus> {
  for (;;) {
    const status = await readGuestIfUp(qmp, options.signal);
    if (status && status.count > options.count) return status;
    await delay(POLL_MS, options.signal);
  }
}

async function readGuestIfUp(qmp: QmpClient, signal: AbortSignal): Promise<TinyGuestStatus | null> {
  const args = { "command-line": STATUS_COMMAND };
  const dump = await qmp.execute("human-monitor-command", args, { signal });
  return parseStatus(parseMonitorDump(String(dump)));
}
