// The migration of a fake QEMU, over the real unix socket that it is given: statuses, events and
// refusals of QEMU 7.2. The "memory" is a few bytes.

import type { FakeQemu } from "./fake_qemu.ts";
import { isClosed, Refusal } from "./refusal.ts";

const MEMORY = 0x4d;
const END = 0x45;
const LOADED = 0x4c;
const BUSY = ["setup", "active", "pre-switchover", "device", "cancelling"];

export class FakeMigration {
  status = "none";
  readonly capabilities: Record<string, boolean> = {
    events: false,
    "return-path": false,
    "pause-before-switchover": false,
    "late-block-activate": false,
    "auto-converge": false,
  };
  readonly parameters: Record<string, unknown> = {
    "max-bandwidth": 134217728,
    "downtime-limit": 300,
  };
  /** `cont` came while the memory was not here yet. */
  runWhenLoaded = false;
  /** Resolves when nothing of it is under way any more. */
  done: Promise<void> = Promise.resolve();
  readonly #qemu: FakeQemu;
  #conn: Deno.UnixConn | undefined;
  #listener: Deno.UnixListener | undefined;
  #continued = Promise.withResolvers<boolean>();
  #stoppedGuest = false;

  constructor(qemu: FakeQemu) {
    this.#qemu = qemu;
  }

  get active(): boolean {
    return BUSY.includes(this.status);
  }

  query(): Record<string, unknown> {
    if (this.status === "none") return {};
    const ram = { transferred: 4096, remaining: 0, total: 4096, mbps: 1, "dirty-sync-count": 1 };
    return { status: this.status, ram };
  }

  queryCapabilities(): { capability: string; state: boolean }[] {
    return Object.entries(this.capabilities).map(([capability, state]) => ({ capability, state }));
  }

  setCapabilities(wanted: unknown): void {
    if (this.active) throw new Refusal("There's a migration process in progress");
    for (const { capability, state } of wanted as { capability: string; state: boolean }[]) {
      if (!(capability in this.capabilities)) throw new Refusal("Invalid parameter");
      this.capabilities[capability] = state;
    }
  }

  send(uri: string): void {
    if (this.active) throw new Refusal("There's a migration process in progress");
    this.#continued = Promise.withResolvers();
    this.#setStatus("setup");
    this.done = this.#send(pathOf(uri));
  }

  receive(uri: string): void {
    if (this.#qemu.runState !== "inmigrate") {
      throw new Refusal("'-incoming' was not specified on the command line");
    }
    if (this.#listener) throw new Refusal("The incoming migration has already been started");
    this.#listener = listen(pathOf(uri));
    this.#setStatus("setup");
    this.done = this.#receive(this.#listener);
  }

  goOn(): void {
    if (this.status !== "pre-switchover") {
      throw new Refusal("Migration not in expected state: pre-switchover");
    }
    // QEMU 7.2 fails an assertion when its images are handed over below a mirror that still runs.
    if ([...this.#qemu.block.jobs.values()].some((job) => job.status !== "concluded")) {
      return this.#qemu.end();
    }
    this.#continued.resolve(true);
  }

  cancel(): void {
    if (!this.active) return;
    this.#setStatus("cancelling");
    this.#continued.resolve(false);
    this.#closeConnection();
  }

  yank(): void {
    this.#closeConnection();
  }

  /** The end of the process. */
  close(): void {
    this.#continued.resolve(false);
    this.#closeConnection();
    this.#closeListener();
  }

  async #send(path: string): Promise<void> {
    try {
      const conn = this.#conn = await Deno.connect({ transport: "unix", path });
      if (this.#gone) return this.#closeConnection();
      this.#setStatus("active");
      await conn.write(Uint8Array.of(MEMORY));
      if (this.#qemu.stalls("pre_switchover")) {
        await this.#continued.promise; // ends by cancelling only
      } else await this.#switchOver(conn);
    } catch (error) {
      if (!isClosed(error) && !(error instanceof Refusal)) throw error;
      if (!this.#gone) return this.#end("failed");
    }
    if (this.status === "cancelling" && !this.#qemu.ended) this.#end("cancelled");
  }

  async #switchOver(conn: Deno.UnixConn): Promise<void> {
    this.#stoppedGuest = this.#qemu.runState === "running";
    this.#qemu.runState = "finish-migrate";
    if (this.#stoppedGuest) this.#qemu.emit("STOP");
    if (this.capabilities["pause-before-switchover"]) {
      this.#setStatus("pre-switchover");
      if (!await this.#continued.promise) return;
    }
    this.#setStatus("device");
    if (this.#qemu.stalls("completed")) {
      await conn.read(new Uint8Array(1)); // ends by the loss of the connection only
      throw new Refusal("no answer");
    }
    await conn.write(Uint8Array.of(END));
    // The return path: the destination says that everything was loaded.
    const answer = new Uint8Array(1);
    if (await conn.read(answer) === null || answer[0] !== LOADED) throw new Refusal("no answer");
    if (this.#gone) return;
    this.#closeConnection();
    this.#qemu.runState = "postmigrate";
    this.#setStatus("completed");
  }

  /** QEMU lets the guest run on by itself when it had stopped it. */
  #end(status: "failed" | "cancelled"): void {
    this.#closeConnection();
    if (this.#qemu.runState === "finish-migrate") {
      if (this.#stoppedGuest) this.#qemu.run();
      else this.#qemu.runState = "paused";
    }
    this.#setStatus(status);
  }

  async #receive(listener: Deno.UnixListener): Promise<void> {
    try {
      const conn = this.#conn = await listener.accept();
      this.#closeListener();
      this.#setStatus("active");
      const byte = new Uint8Array(1);
      while (byte[0] !== END) {
        if (await conn.read(byte) === null) throw new Refusal("load of migration failed");
      }
      await conn.write(Uint8Array.of(LOADED));
    } catch (error) {
      if (!isClosed(error) && !(error instanceof Refusal)) throw error;
      if (this.#qemu.ended) return;
      this.#setStatus("failed");
      this.#qemu.end(); // QEMU 7.2 exits when the memory did not arrive
      return;
    }
    this.#closeConnection();
    if (this.#qemu.ended) return;
    this.#qemu.runState = "paused";
    this.#setStatus("completed");
    if (this.runWhenLoaded) this.#qemu.run();
  }

  get #gone(): boolean {
    return this.#qemu.ended || this.status === "cancelling";
  }

  #setStatus(status: string): void {
    this.status = status;
    if (this.capabilities.events) this.#qemu.emit("MIGRATION", { status });
  }

  #closeConnection(): void {
    try {
      this.#conn?.close();
    } catch (error) {
      if (!(error instanceof Deno.errors.BadResource)) throw error;
    }
    this.#conn = undefined;
  }

  #closeListener(): void {
    try {
      this.#listener?.close();
    } catch (error) {
      if (!(error instanceof Deno.errors.BadResource)) throw error;
    }
  }
}

function listen(path: string): Deno.UnixListener {
  try {
    return Deno.listen({ transport: "unix", path });
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error; // the folder is gone already
    throw new Refusal(`Failed to bind socket to ${path}: No such file or directory`);
  }
}

function pathOf(uri: string): string {
  if (!uri.startsWith("unix:")) throw new Refusal(`unknown migration protocol: ${uri}`);
  return uri.slice("unix:".length);
}
