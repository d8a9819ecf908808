// One migration by both stories, the real ones, between two fake QEMUs over a connection with a test
// in the middle. A fault strikes at a point that a run without faults has passed.

import { AgentError, type Side } from "../../src/base/errors.ts";
import { send } from "../../agents/sender.ts";
import { receive } from "../../agents/receiver.ts";
import type { SendOptions } from "../../src/cli/send_command.ts";
import type { AccountEvent, AgentEvent } from "../../src/migration/events.ts";
import { Migration } from "../../src/migration/migration.ts";
import type { PhaseName } from "../../src/migration/phases.ts";
import { TempDir } from "../lib/temp.ts";
import { FakeHost } from "./fake_host.ts";
import { DISK_BYTES } from "./fake_block.ts";
import { type CommandFate, FakeQemu, type Stall } from "./fake_qemu.ts";
import { type WireFate, WireTap } from "./wire_tap.ts";

/** Something that a side did: a QMP command that it ran, or a message that it sent. */
export interface Point {
  side: Side;
  /** The phase that the side (for a message: the sender) was in. */
  phase: PhaseName;
  kind: "qmp" | "wire";
  what: string;
  /** Counted from 1 within side, phase and `what`. */
  nth: number;
}

export type FaultKind =
  | Exclude<CommandFate, undefined>
  | Exclude<WireFate, "pass">
  /** Bytes from the peer that are no frame. */
  | "noise"
  | "cancel source"
  | "cancel destination";

export interface Fault {
  at: Point;
  kind: FaultKind;
}

export interface StoryScript {
  fault?: Fault;
  /** Strikes after the first one: at what is done to undo the migration. */
  second?: Fault;
  /** What never comes about in the source's QEMU. */
  stall?: Stall;
  options?: Partial<SendOptions>;
  /** The guest is paused, and stays so. */
  paused?: boolean;
}

export interface StoryResult {
  points: Point[];
  events: AgentEvent[];
  sender: AccountEvent;
  /** Null when the receiver saw no migration. */
  receiver: AccountEvent | null;
  /** Whether every fault's point was reached. */
  struck: boolean;
  /** What must never happen, and did. */
  violations: string[];
  source: QemuResult;
  destination: QemuResult;
  /** Files that are left: targets, sockets, folders. */
  leftTargets: string[];
  leftTemporary: string[];
}

export interface QemuResult {
  runState: string;
  ended: boolean;
  ran: boolean;
  nodes: string[];
  jobs: string[];
  exports: string[];
  objects: string[];
  capabilities: Record<string, boolean>;
  parameters: Record<string, unknown>;
}

export function namePoint({ side, phase, what, nth }: Point): string {
  return `${phase}: ${side} ${what}${nth > 1 ? ` (${nth})` : ""}`;
}

export async function runStory(script: StoryScript = {}): Promise<StoryResult> {
  await using temp = await TempDir.create();
  // What the agents put into the system's folder for temporary files is looked at afterwards.
  const temporary = temp.file("tmp");
  await Deno.mkdir(temporary);
  const before = Deno.env.get("TMPDIR");
  Deno.env.set("TMPDIR", temporary);
  try {
    return await new Story(script, { temp, temporary }).run();
  } finally {
    if (before === undefined) Deno.env.delete("TMPDIR");
    else Deno.env.set("TMPDIR", before);
  }
}

class Story {
  readonly #script: StoryScript;
  readonly #temp: TempDir;
  readonly #temporary: string;
  readonly #points: Point[] = [];
  readonly #events: AgentEvent[] = [];
  readonly #violations: string[] = [];
  readonly #counts = new Map<string, number>();
  readonly #phases: Record<Side, PhaseName> = { source: "preflight", destination: "preflight" };
  readonly #cancels = { source: new AbortController(), destination: new AbortController() };
  readonly #tap: WireTap;
  #qemus: { source?: FakeQemu; destination?: FakeQemu } = {};
  /** Those that have not struck yet. */
  readonly #faults: Fault[];

  constructor(script: StoryScript, folders: { temp: TempDir; temporary: string }) {
    this.#script = script;
    this.#faults = [script.fault, script.second].filter((fault) => fault !== undefined);
    this.#temp = folders.temp;
    this.#temporary = folders.temporary;
    this.#tap = new WireTap((side, what) => {
      const fate = this.#reach({ side, kind: "wire", what });
      return fate === undefined || fate === "error" || fate === "death" ? "pass" : fate;
    });
  }

  async run(): Promise<StoryResult> {
    const { stall, options, paused } = this.#script;
    const images = [this.#temp.file("a.img"), this.#temp.file("b.img")];
    for (const image of images) {
      await Deno.writeFile(image, new Uint8Array());
      await Deno.truncate(image, DISK_BYTES);
    }
    const targets = this.#temp.file("targets");
    await Deno.mkdir(targets);
    // A process stands in for the source's QEMU: the sender looks at it in /proc, and waits for its end.
    const child = new Deno.Command("sleep", { args: ["600"], stdin: "null" }).spawn();
    await using source = this.#makeQemu("source", {
      disks: images,
      stall: stall ?? null,
      onEnd: () => child.kill("SIGKILL"),
    });
    this.#qemus.source = source;
    if (paused) source.runState = "paused";
    await using host = new FakeHost({
      folder: targets,
      start: () => this.#qemus.destination = this.#makeQemu("destination", { disks: images }),
    });
    using tap = this.#tap;
    const receiving = this.#receive(host);
    const migration = this.#makeMigration("source");
    const sender = await send({
      command: "send",
      connection: { by: "insecure", to: { host: "127.0.0.1", port: tap.port } },
      qmp: source.qmpPath,
      qemuPid: child.pid,
      copyStorage: true,
      disks: null,
      excludeDisks: [],
      diskBandwidth: null,
      ramBandwidth: null,
      downtimeLimitMs: null,
      autoConverge: false,
      timeoutMs: null,
      sourceAfter: "quit",
      nbd: "direct",
      insecureNbd: true,
      json: false,
      ...options,
    }, migration);
    tap[Symbol.dispose]();
    const receiver = await receiving;
    const result: StoryResult = {
      points: this.#points,
      events: this.#events,
      sender,
      receiver,
      struck: this.#faults.length === 0,
      violations: this.#violations,
      source: describeQemu(source),
      destination: describeQemu(this.#qemus.destination),
      leftTargets: listFolder(targets),
      leftTemporary: listFolder(this.#temporary),
    };
    source.end();
    await child.status;
    return result;
  }

  async #receive(host: FakeHost): Promise<AccountEvent | null> {
    const link = await this.#tap.accept();
    if (!link) return null;
    return await receive({ link, peer: "story", reachedHost: "127.0.0.1", encrypted: false }, {
      claim: () => "story",
      host,
      nbd: { host: "127.0.0.1", ports: null },
      allowPlainNbd: true,
    }, this.#makeMigration("destination"));
  }

  #makeMigration(side: Side): Migration {
    return new Migration({
      side,
      cancel: this.#cancels[side].signal,
      emit: (event) => {
        this.#events.push(event);
        if (event.type === "phase") this.#phases[side] = event.phase!;
      },
    });
  }

  #makeQemu(
    side: Side,
    parts: { disks: string[]; stall?: Stall | null; onEnd?: () => void },
  ): FakeQemu {
    return new FakeQemu({
      side,
      qmpPath: this.#temp.file(`${side}.sock`),
      stall: null,
      onEnd: () => {},
      ...parts,
      nbdPeer: () => this.#qemus[other(side)],
      onRun: () => this.#checkRun(side),
      onCommand: (_, command) => {
        const fate = this.#reach({ side, kind: "qmp", what: command });
        return fate === "error" || fate === "death" ? fate : undefined;
      },
    });
  }

  /** Called at the very moment at which a guest begins to run. */
  #checkRun(side: Side): void {
    if (this.#qemus[other(side)]?.running) this.#violations.push("two guests run");
    const handedOver = this.#counts.has("source handover asks handover");
    if (side === "destination" && !handedOver) {
      this.#violations.push("the destination's guest ran before the handover");
    }
    if (side === "source" && this.#qemus.destination?.ran) {
      this.#violations.push("the source's guest ran after the destination's");
    }
  }

  /** Notes that a point is reached; what the fault makes of it, if it strikes here. */
  #reach(at: Omit<Point, "phase" | "nth">): CommandFate | WireFate {
    const { side, kind, what } = at;
    // A message belongs to the phase of the side that leads: the sender's.
    const phase = this.#phases[kind === "wire" ? "source" : side];
    const key = `${side} ${phase} ${what}`;
    const nth = (this.#counts.get(key) ?? 0) + 1;
    this.#counts.set(key, nth);
    this.#points.push({ side, phase, kind, what, nth });
    const fault = this.#faults[0];
    if (!fault) return undefined;
    if (namePoint(fault.at) !== namePoint({ side, phase, kind, what, nth })) return undefined;
    this.#faults.shift();
    switch (fault.kind) {
      case "cancel source":
      case "cancel destination": {
        const error = new AgentError("cancelled", "Cancelled by the test", { kind: "cancelled" });
        this.#cancels[fault.kind === "cancel source" ? "source" : "destination"].abort(error);
        return undefined;
      }
      case "cut":
        this.#tap.cut();
        return undefined;
      case "noise":
        this.#tap.makeNoise(other(side));
        return undefined;
      default:
        return fault.kind;
    }
  }
}

function other(side: Side): Side {
  return side === "source" ? "destination" : "source";
}

function describeQemu(qemu: FakeQemu | undefined): QemuResult {
  return {
    runState: qemu?.runState ?? "never started",
    ended: qemu?.ended ?? true,
    ran: qemu?.ran ?? false,
    nodes: [...qemu?.block.nodes.keys() ?? []],
    jobs: [...qemu?.block.jobs.keys() ?? []],
    exports: [...qemu?.block.exports.keys() ?? []],
    objects: [...qemu?.objects ?? []],
    capabilities: { ...qemu?.migration.capabilities },
    parameters: { ...qemu?.migration.parameters },
  };
}

function listFolder(path: string): string[] {
  return [...Deno.readDirSync(path)].map((entry) => entry.name).sort();
}
