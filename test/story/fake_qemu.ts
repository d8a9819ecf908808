// A QEMU without a machine: the states, events and refusals of QEMU 7.2 that a migration meets, on a
// real QMP socket. It is for the rules of the two stories; what QEMU does is shown in test/qemu.
// Order of events, states and error texts were taken from a QEMU 7.2.

import type { Side } from "../../src/base/errors.ts";
import { decodeLines, encodeMessage, type QmpMessage } from "../../src/qmp/codec.ts";
import { FakeBlock } from "./fake_block.ts";
import { FakeMigration } from "./fake_migration.ts";
import { isClosed, Refusal } from "./refusal.ts";

/** What a test makes of a command: a refusal, the death of this QEMU, or nothing special. */
export type CommandFate = "error" | "death" | undefined;

/** What never comes about in this QEMU. */
export type Stall = "mirror_ready" | "pre_switchover" | "completed";

export interface FakeQemuOptions {
  side: Side;
  qmpPath: string;
  /** Image files; the disks are called disk-0, disk-1, ... */
  disks: readonly string[];
  /** Asked before every command. */
  onCommand: (side: Side, command: string) => CommandFate;
  /** Told at the moment from which the guest runs here. */
  onRun: (side: Side) => void;
  stall: Stall | null;
}

export type Args = Record<string, unknown>;

export class FakeQemu implements AsyncDisposable {
  readonly side: Side;
  readonly qmpPath: string;
  runState: string;
  /** Whether the guest ran here at any time. */
  ran = false;
  ended = false;
  readonly objects = new Set<string>();
  readonly block: FakeBlock;
  readonly migration: FakeMigration;
  /** Stands in for QEMU's: the agents look at it in /proc, note it, wait for its end. */
  readonly #process: Deno.ChildProcess;
  readonly #exit: Promise<void>;
  #alive = true;
  readonly #options: FakeQemuOptions;
  readonly #listener: Deno.UnixListener;
  readonly #serving: Promise<void>;
  readonly #timers = new Set<number>();
  #conn: Deno.UnixConn | undefined;
  #sending: Promise<unknown> = Promise.resolve();

  constructor(options: FakeQemuOptions) {
    this.#options = options;
    this.side = options.side;
    this.qmpPath = options.qmpPath;
    this.runState = options.side === "source" ? "running" : "inmigrate";
    if (options.side === "source") this.ran = true;
    this.block = new FakeBlock(this, options);
    this.migration = new FakeMigration(this);
    this.#process = new Deno.Command("sleep", { args: ["600"], stdin: "null" }).spawn();
    this.#exit = this.#process.status.then(() => {
      this.#alive = false;
      this.end();
    });
    this.#listener = Deno.listen({ transport: "unix", path: options.qmpPath });
    this.#serving = this.#serve();
  }

  get pid(): number {
    return this.#process.pid;
  }

  get running(): boolean {
    return !this.ended && this.runState === "running";
  }

  /** Whether this one is to get stuck there. */
  stalls(at: Stall): boolean {
    return this.#options.stall === at;
  }

  emit(event: string, data: Args = {}): void {
    const now = Date.now();
    const timestamp = { seconds: Math.floor(now / 1000), microseconds: (now % 1000) * 1000 };
    this.#send({ event, data, timestamp });
  }

  /** The guest goes on here. */
  run(): void {
    if (this.runState === "running") return;
    this.runState = "running";
    this.ran = true;
    this.#options.onRun(this.side);
    this.emit("RESUME");
  }

  /** As the main loop does: after what is under way now. */
  later(work: () => void, ms = 0): void {
    if (this.ended) return;
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      work();
    }, ms);
    this.#timers.add(timer);
  }

  /** The process ends, in whatever way: every connection with it. */
  end(): void {
    if (this.ended) return;
    this.ended = true;
    for (const timer of this.#timers) clearTimeout(timer);
    this.migration.close();
    this.#listener.close();
    this.#closeConnection();
    if (this.#alive) this.#process.kill("SIGKILL");
    this.block.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.end();
    await this.#serving;
    await this.migration.done;
    await this.block.done;
    await this.#sending;
    await this.#exit;
  }

  async #serve(): Promise<void> {
    while (!this.ended) {
      try {
        this.#conn = await this.#listener.accept();
      } catch (error) {
        if (this.ended) return;
        throw error;
      }
      await this.#serveClient(this.#conn);
      this.#closeConnection();
    }
  }

  async #serveClient(conn: Deno.UnixConn): Promise<void> {
    this.#send({
      QMP: { version: { qemu: { major: 7, minor: 2, micro: 0 }, package: "" }, capabilities: [] },
    });
    try {
      for await (const message of decodeLines(conn.readable)) await this.#answer(message);
    } catch (error) {
      if (!isClosed(error)) throw error;
    }
  }

  async #answer(message: QmpMessage): Promise<void> {
    const { id, execute: command = "", arguments: args = {} } = message;
    const fate = this.#options.onCommand(this.side, command);
    if (fate === "death") return this.end();
    try {
      if (fate === "error") throw new Refusal("made to fail by the test");
      const run = this.#commands[command] ?? this.block.commands[command];
      if (!run) {
        throw new Refusal(`The command ${command} has not been found`, "CommandNotFound");
      }
      const result = await run(args) ?? {};
      this.#send({ return: result, id });
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      this.#send({ error: { class: error.errorClass, desc: error.message }, id });
    }
  }

  #send(message: QmpMessage): void {
    const conn = this.#conn;
    if (!conn) return;
    const bytes = encodeMessage(message);
    this.#sending = this.#sending.then(async () => {
      try {
        for (let at = 0; at < bytes.length;) at += await conn.write(bytes.subarray(at));
      } catch (error) {
        if (!isClosed(error)) throw error; // the client has left
      }
    });
  }

  #closeConnection(): void {
    try {
      this.#conn?.close();
    } catch (error) {
      if (!(error instanceof Deno.errors.BadResource)) throw error;
    }
    this.#conn = undefined;
  }

  readonly #commands: Record<string, (args: Args) => unknown> = {
    qmp_capabilities: () => undefined,
    "query-commands": () =>
      Object.keys({ ...this.#commands, ...this.block.commands }).map((name) => ({ name })),
    "query-status": () => ({ running: this.runState === "running", status: this.runState }),
    "query-name": () => ({ name: "fake" }),
    "query-uuid": () => ({ UUID: "00000000-0000-0000-0000-000000000000" }),
    "query-target": () => ({ arch: "x86_64" }),
    "query-cpus-fast": () => [{}],
    "query-memory-size-summary": () => ({ "base-memory": 1 << 26 }),
    "qom-get": () => "pc-i440fx-7.2-machine",
    "qom-list": () => [],
    "qom-list-properties": () => [{ name: "type" }],
    "object-add": (args) => void this.objects.add(String(args.id)),
    "object-del": (args) => {
      if (!this.objects.delete(String(args.id))) {
        throw new Refusal(`object '${args.id}' not found`);
      }
    },
    cont: () => this.#cont(),
    quit: () => this.later(() => this.end()),
    yank: (args) => this.#yank(args.instances as { type: string; "node-name"?: string }[]),
    ...this.#migrationCommands(),
  };

  #migrationCommands(): Record<string, (args: Args) => unknown> {
    // A getter: the table above is built before the constructor has set the migration.
    const on = () => this.migration;
    return {
      "query-migrate": () => on().query(),
      "query-migrate-capabilities": () => on().queryCapabilities(),
      "migrate-set-capabilities": (args) => on().setCapabilities(args.capabilities),
      "query-migrate-parameters": () => ({ ...on().parameters }),
      "migrate-set-parameters": (args) => void Object.assign(on().parameters, args),
      migrate: (args) => on().send(String(args.uri)),
      "migrate-incoming": (args) => on().receive(String(args.uri)),
      "migrate-continue": () => on().goOn(),
      migrate_cancel: () => on().cancel(),
    };
  }

  #cont(): void {
    if (this.runState === "running") return;
    if (this.runState === "finish-migrate") throw new Refusal("Migration is not finalized yet");
    if (this.runState === "inmigrate") {
      this.migration.runWhenLoaded = true;
      return;
    }
    // The guest's own nodes take the images' locks now.
    if (this.block.exports.size > 0) throw new Refusal('Failed to get "write" lock');
    this.run();
  }

  #yank(instances: { type: string; "node-name"?: string }[]): void {
    for (const { type, "node-name": name } of instances) {
      const known = type === "migration" ? this.migration.active : this.block.nodes.has(name!);
      if (!known) throw new Refusal("Instance not found", "DeviceNotFound");
    }
    for (const { type, "node-name": name } of instances) {
      if (type === "migration") this.migration.yank();
      else this.block.cutOff(name!);
    }
  }
}
