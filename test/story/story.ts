// One migration by both stories, the real ones, between two fake QEMUs over a connection with a test
// in the middle. A fault strikes at a point that a run without faults has passed.

import { faultAt } from "../../agents/fault.ts";
import { recallOutcome } from "../../agents/recall.ts";
import { type ReceptionOptions, serveConnection } from "../../agents/reception.ts";
import { send } from "../../agents/sender.ts";
import { AgentError, type Side, toAgentError } from "../../src/base/errors.ts";
import type { SendOptions } from "../../src/cli/send_command.ts";
import type { AccountEvent, AgentEvent } from "../../src/migration/events.ts";
import type { JournalRecord } from "../../src/migration/journal_record.ts";
import { Migration } from "../../src/migration/migration.ts";
import { type DestinationState, mayRun } from "../../src/migration/ownership.ts";
import type { PhaseName } from "../../src/migration/phases.ts";
import { StateFolder } from "../../src/migration/state_folder.ts";
import { TempDir } from "../lib/temp.ts";
import { FakeHost } from "./fake_host.ts";
import { DISK_BYTES } from "./fake_block.ts";
import { type CommandFate, FakeQemu, type Stall } from "./fake_qemu.ts";
import { listFolder, StoryJournals } from "./journals.ts";
import { type WireFate, WireTap } from "./wire_tap.ts";

/** Far above what anything here takes on a machine that is busy. */
const PEER_TIMEOUT_MS = 10_000;
const HANDOVER_TIMEOUT_MS = 10_000;
const HANDOVER = "source handover asks handover";
/** Who calls: nobody has to prove anything. */
const CALLER = {
  peer: "story",
  reachedHost: "127.0.0.1",
  encrypted: false,
  migrationId: "",
  rememberFor: () => () => {},
};

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
  /** The connection is lost; the sender can reach the receiver again. */
  | "cut"
  /** Lost, and nobody is reached any more. */
  | "cut for good"
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
  /** The point (FAULT_POINTS) at which a step fails on its own side. */
  failAt?: string;
  /** What never comes about in the source's QEMU. */
  stall?: Stall;
  options?: Partial<SendOptions>;
  /** The guest is paused, and stays so. */
  paused?: boolean;
}

export interface StoryResult {
  points: Point[];
  /** The points of FAULT_POINTS that the run has passed. */
  passed: string[];
  /** What each side has left of its journal. */
  journals: Record<Side, JournalRecord | null>;
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
  readonly #passed: string[] = [];
  readonly #journals: StoryJournals;
  /** Resolves when the receiver has ended its migration. */
  readonly #received = Promise.withResolvers<AccountEvent>();
  readonly #counts = new Map<string, number>();
  readonly #phases: Record<Side, PhaseName> = { source: "preflight", destination: "preflight" };
  readonly #cancels = { source: new AbortController(), destination: new AbortController() };
  readonly #tap: WireTap;
  #started = 0;
  #qemus: { source?: FakeQemu; destination?: FakeQemu } = {};
  /** Those that have not struck yet. */
  readonly #faults: Fault[];

  constructor(script: StoryScript, folders: { temp: TempDir; temporary: string }) {
    this.#script = script;
    this.#faults = [script.fault, script.second].filter((fault) => fault !== undefined);
    this.#temp = folders.temp;
    this.#temporary = folders.temporary;
    this.#journals = new StoryJournals(folders.temp.file("state"));
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
    await using source = this.#makeQemu("source", { disks: images, stall: stall ?? null });
    this.#qemus.source = source;
    if (paused) source.runState = "paused";
    await using host = new FakeHost({
      folder: targets,
      start: () => this.#qemus.destination = this.#makeQemu("destination", { disks: images }),
    });
    using tap = this.#tap;
    const stop = new AbortController();
    const serving = this.#serve(host, stop.signal);
    const migration = this.#makeMigration("source");
    const sender = await send({
      command: "send",
      connection: { by: "insecure", to: { host: "127.0.0.1", port: tap.port } },
      guest: { qmp: source.qmpPath },
      qemuPid: source.pid,
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
      stateDir: this.#journals.folders.source,
      peerTimeoutMs: PEER_TIMEOUT_MS,
      reconnectMs: 0,
      handoverTimeoutMs: HANDOVER_TIMEOUT_MS,
      fault: null,
      ...options,
    }, migration);
    tap[Symbol.dispose]();
    // A receiver that could still be asked would wait for it.
    await Promise.race([this.#received.promise, serving]);
    stop.abort(new AgentError("served", "The story has ended"));
    const receiver = await serving;
    return {
      points: this.#points,
      passed: this.#passed,
      events: this.#events,
      sender,
      receiver,
      struck: this.#faults.length === 0,
      violations: this.#violations,
      source: describeQemu(source),
      destination: describeQemu(this.#qemus.destination),
      journals: {
        source: this.#journals.read("source"),
        destination: this.#journals.read("destination"),
      },
      leftTargets: listFolder(targets),
      leftTemporary: [...listFolder(this.#temporary), ...this.#journals.leftovers()],
    };
  }

  /** What `receive` does (agents/server.ts); the account of the one migration, null without one. */
  async #serve(host: FakeHost, stop: AbortSignal): Promise<AccountEvent | null> {
    const state = await StateFolder.open(this.#journals.folders.destination);
    const options: ReceptionOptions = {
      claim: () => "story",
      host,
      state,
      living: new Map(),
      nbd: { host: "127.0.0.1", ports: null },
      allowPlainNbd: true,
      peerTimeoutMs: PEER_TIMEOUT_MS,
      makeMigration: () => this.#makeMigration("destination"),
      recall: (id, signal) => recallOutcome(state, id, signal),
    };
    let account: AccountEvent | null = null;
    const connections: Promise<void>[] = [];
    for (;;) {
      const link = await this.#tap.accept();
      if (link === null) break;
      const sender = { ...CALLER, link };
      connections.push(
        serveConnection(sender, options, stop).then(
          (ended) => void (account = ended?.account ?? account),
          (error) => this.#noteRefused(toAgentError(error)),
        ),
      );
    }
    await Promise.all(connections);
    return account;
  }

  #noteRefused({ kind, message }: AgentError): void {
    if (kind === "internal") this.#violations.push(`a connection met a defect: ${message}`);
  }

  #makeMigration(side: Side): Migration {
    const { failAt } = this.#script;
    const fault = failAt?.startsWith(side) ? { point: failAt, action: "error" } as const : null;
    const strike = faultAt(fault, { say: () => {} });
    return new Migration({
      side,
      cancel: this.#cancels[side].signal,
      emit: (event) => {
        this.#events.push(event);
        if (event.type === "phase") this.#phases[side] = event.phase!;
        if (event.type === "account" && side === "destination") this.#received.resolve(event);
      },
      pass: async (point, signal) => {
        this.#passed.push(point);
        await strike?.(point, signal);
      },
    });
  }

  #makeQemu(
    side: Side,
    parts: { disks: string[]; stall?: Stall | null },
  ): FakeQemu {
    return new FakeQemu({
      side,
      qmpPath: this.#temp.file(`${side}-${++this.#started}.sock`),
      stall: null,
      ...parts,
      onRun: () => this.#checkRun(side),
      onCommand: (_, command) => {
        const fate = this.#reach({ side, kind: "qmp", what: command });
        return fate === "error" || fate === "death" ? fate : undefined;
      },
    });
  }

  /** Called at the very moment at which a guest begins to run. */
  #checkRun(side: Side): void {
    const violate = (what: string) => this.#violations.push(what);
    if (this.#qemus[other(side)]?.running) violate("two guests run");
    const source = this.#journals.stateOf("source");
    const destination = this.#journals.stateOf("destination");
    if (side === "destination") {
      if (!this.#counts.has(HANDOVER)) violate("the destination's guest ran before the handover");
      if (destination !== "accepted") violate(`its guest ran with the journal in ${destination}`);
      if (source !== "handover_sent") violate(`it ran while the source's journal was ${source}`);
    } else {
      if (destination !== null && mayRun("destination", destination as DestinationState)) {
        violate(`the source's guest ran while the destination's journal was ${destination}`);
      }
      if (this.#qemus.destination?.ran && destination !== "ended") {
        violate("the source's guest ran after the destination's");
      }
    }
  }

  /** Notes that a point is reached; what the fault makes of it, if it strikes here. */
  #reach(at: Omit<Point, "phase" | "nth">): CommandFate | WireFate {
    const { side, kind, what } = at;
    // A message belongs to the phase of the side that leads: the sender's.
    const phase = this.#phases[kind === "wire" ? "source" : side];
    if (this.#journals.bothMayRun) this.#violations.push("by the journals both guests may run");
    const key = `${side} ${phase} ${what}`;
    const nth = (this.#counts.get(key) ?? 0) + 1;
    this.#counts.set(key, nth);
    this.#points.push({ side, phase, kind, what, nth });
    if (key === HANDOVER && this.#journals.stateOf("source") !== "handover_sent") {
      this.#violations.push("the handover was sent before the journal said so");
    }
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
      case "cut for good":
        this.#tap[Symbol.dispose]();
        this.#tap.cut();
        return undefined;
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
