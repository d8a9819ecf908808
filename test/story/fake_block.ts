// The block layer of a fake QEMU: nodes, mirror jobs, the NBD server and its exports, with the states,
// events and refusals of QEMU 7.2. No byte is copied.

import { FakeNbdClient, FakeNbdServer, type Place } from "./fake_nbd.ts";
import type { Args, FakeQemu } from "./fake_qemu.ts";
import { Refusal } from "./refusal.ts";

interface Job {
  device: string;
  target: string;
  status: "running" | "ready" | "concluded";
  /** On demand or by an error. */
  paused: boolean;
  /** Whether it waits after an error instead of ending. */
  stopsAtError: boolean;
  error?: string;
}

interface Node {
  args: Args;
  /** Of an NBD node: while it is connected. */
  client?: FakeNbdClient;
  /** Yanked: it does not connect again. */
  dead?: boolean;
}

export const DISK_BYTES = 1 << 20;

export class FakeBlock {
  readonly nodes = new Map<string, Node>();
  readonly jobs = new Map<string, Job>();
  /** Exported nodes by the name of their export. */
  readonly exports = new Map<string, string>();
  readonly #qemu: FakeQemu;
  readonly #disks: readonly string[];
  #server: FakeNbdServer | undefined;
  #closed = false;
  readonly #underWay = new Set<Promise<void>>();

  constructor(qemu: FakeQemu, options: { disks: readonly string[] }) {
    this.#qemu = qemu;
    this.#disks = options.disks;
  }

  /** The end of the process. */
  close(): void {
    this.#closed = true;
    this.#stopServer();
    for (const { client } of this.nodes.values()) client?.close();
  }

  /** Resolves when nothing of it is under way any more. */
  get done(): Promise<unknown> {
    return Promise.all(this.#underWay);
  }

  /** `yank`: a job that copies over that node fails soon after; one that is ready does not notice. */
  cutOff(name: string): void {
    const node = this.nodes.get(name)!;
    node.dead = true;
    node.client?.close();
  }

  readonly commands: Record<string, (args: Args) => unknown> = {
    "query-block": () =>
      this.#disks.map((file, index) => ({
        device: `disk-${index}`,
        qdev: `/machine/peripheral/frontend-${index}/virtio-backend`,
        removable: false,
        inserted: describeNode(file, index),
      })),
    "query-named-block-nodes": () =>
      this.#disks.flatMap((file, index) => [
        describeNode(file, index),
        { ...describeNode(file, index), "node-name": `#file${index}`, drv: "file" },
      ]),
    "blockdev-add": (args) => this.#addNode(args),
    "blockdev-del": (args) => this.#deleteNode(String(args["node-name"])),
    "blockdev-mirror": (args) => this.#startMirror(args),
    "block-job-pause": (args) => {
      const job = this.#activeJob(String(args.device), "pause");
      if (job.paused) throw new Refusal("Job is already paused");
      job.paused = true;
    },
    "block-job-resume": (args) => this.#resumeJob(String(args.device)),
    "block-job-set-speed": (args) => void this.#activeJob(String(args.device), "set-speed"),
    "block-job-cancel": (args) => this.#cancelJob(String(args.device), args.force === true),
    "job-dismiss": (args) => this.#dismissJob(String(args.id)),
    "query-jobs": () =>
      [...this.jobs].map(([id, job]) => ({
        id,
        type: "mirror",
        status: statusOf(job),
        ...(job.error === undefined ? {} : { error: job.error }),
      })),
    "query-block-jobs": () =>
      [...this.jobs].map(([device, job]) => ({
        type: "mirror",
        device,
        len: DISK_BYTES,
        offset: job.status === "running" ? 0 : DISK_BYTES,
        speed: 0,
        ready: job.status === "ready",
        status: statusOf(job),
        "io-status": job.paused && job.stopsAtError ? "failed" : "ok",
      })),
    "nbd-server-start": ({ addr }) => {
      if (this.#server) throw new Refusal("NBD server already running");
      const { type, data } = addr as { type: string; data: Record<string, string> };
      const server = this.#server = new FakeNbdServer(placeOf({ type, ...data }));
      this.#note(server.done);
    },
    "block-export-add": (args) => {
      if (!this.#server) throw new Refusal("NBD server not running");
      this.exports.set(String(args.name), String(args["node-name"]));
    },
    "nbd-server-stop": () => {
      if (!this.#server) throw new Refusal("NBD server not running");
      this.#stopServer();
    },
  };

  #stopServer(): void {
    this.#server?.stop();
    this.#server = undefined;
    this.exports.clear();
  }

  /** A failure of what goes on in the background is the test's. */
  #note(work: Promise<void>): void {
    this.#underWay.add(work);
    work.finally(() => this.#underWay.delete(work));
  }

  async #addNode(args: Args): Promise<void> {
    const name = String(args["node-name"]);
    if (this.nodes.has(name)) throw new Refusal(`Duplicate nodes with node-name='${name}'`);
    const node: Node = { args };
    if (args.driver === "nbd") await this.#connect(node);
    this.nodes.set(name, node);
  }

  /** As QEMU does at the next request, too. @throws Refusal */
  async #connect(node: Node): Promise<void> {
    if (node.client) return;
    if (node.dead) throw new Refusal("Input/output error");
    const client = await FakeNbdClient.connect(placeOf(node.args.server as Record<string, string>));
    if (this.#closed || node.dead) client.close();
    node.client = client;
    this.#note(client.lost.then(() => {
      delete node.client;
      this.#loseTarget(node);
    }));
  }

  /** The jobs that copy to that node notice, one after the other; those that are ready do not. */
  #loseTarget(node: Node): void {
    [...this.jobs].forEach(([id, job], index) => {
      if (this.nodes.get(job.target) !== node || job.status !== "running") return;
      this.#qemu.later(() => this.#failRequest(id, job), 3 * index);
    });
  }

  #failRequest(id: string, job: Job): void {
    if (job.status === "concluded" || job.paused) return;
    if (!job.stopsAtError) return this.#failJob(id, job);
    job.paused = true;
    this.#qemu.emit("BLOCK_JOB_ERROR", { device: id, operation: "write", action: "stop" });
  }

  #deleteNode(name: string): void {
    if (!this.nodes.has(name)) throw new Refusal(`Failed to find node with node-name='${name}'`);
    const used = [...this.jobs.values()].some((job) =>
      job.target === name && job.status !== "concluded"
    );
    if (used || [...this.exports.values()].includes(name)) {
      throw new Refusal(`Node ${name} is in use`);
    }
    this.nodes.get(name)!.client?.close();
    this.nodes.delete(name);
  }

  #startMirror(args: Args): void {
    const id = String(args["job-id"]);
    const job: Job = {
      device: String(args.device),
      target: String(args.target),
      status: "running",
      paused: false,
      stopsAtError: args["on-target-error"] === "stop",
    };
    if (!this.nodes.has(job.target)) throw new Refusal(`Cannot find device='${job.target}'`);
    this.jobs.set(id, job);
    this.#jobStatus(id, "created");
    this.#jobStatus(id, "running");
    this.#copy(id, job);
  }

  #copy(id: string, job: Job): void {
    if (this.#qemu.stalls("mirror_ready")) return;
    this.#qemu.later(() => {
      if (job.status !== "running" || job.paused) return;
      if (!this.nodes.get(job.target)?.client) return this.#failRequest(id, job);
      job.status = "ready";
      this.#jobStatus(id, "ready");
      this.#qemu.emit("BLOCK_JOB_READY", jobData(id));
    });
  }

  #resumeJob(id: string): void {
    const job = this.#activeJob(id, "resume");
    if (!job.paused) throw new Refusal("Can't resume a job that was not paused");
    job.paused = false;
    if (job.status !== "running") return;
    this.#note(
      this.#reach(job).then((reached) => {
        if (reached) this.#copy(id, job);
        else this.#failRequest(id, job);
      }),
    );
  }

  /** Whether its target is connected, if need be anew. */
  async #reach(job: Job): Promise<boolean> {
    const node = this.nodes.get(job.target);
    if (!node) return false;
    try {
      await this.#connect(node);
      return true;
    } catch (error) {
      if (error instanceof Refusal) return false;
      throw error;
    }
  }

  #activeJob(id: string, verb: string): Job {
    const job = this.jobs.get(id);
    if (!job) throw new Refusal(`Block job '${id}' not found`, "DeviceNotActive");
    if (job.status === "concluded") {
      throw new Refusal(`Job '${id}' in state 'concluded' cannot accept command verb '${verb}'`);
    }
    return job;
  }

  #cancelJob(id: string, force: boolean): void {
    const job = this.#activeJob(id, "cancel");
    if (job.paused && !force) throw new Refusal(`The block job '${id}' is currently paused`);
    if (job.status === "ready" && !force) {
      const reaching = this.#reach(job).then((reached) => {
        if (job.status === "concluded") return;
        if (!reached) return this.#failJob(id, job);
        job.status = "concluded";
        this.#jobStatus(id, "waiting");
        this.#jobStatus(id, "pending");
        this.#qemu.emit("BLOCK_JOB_COMPLETED", jobData(id));
        this.#jobStatus(id, "concluded");
      });
      this.#note(reaching);
      return;
    }
    this.#qemu.later(() => {
      if (job.status === "concluded") return;
      job.status = "concluded";
      job.error = "Operation canceled";
      this.#jobStatus(id, "aborting");
      this.#qemu.emit("BLOCK_JOB_CANCELLED", jobData(id));
      this.#jobStatus(id, "concluded");
    });
  }

  #failJob(id: string, job: Job): void {
    if (job.status === "concluded") return;
    job.status = "concluded";
    job.error = "Input/output error";
    this.#jobStatus(id, "aborting");
    this.#qemu.emit("BLOCK_JOB_COMPLETED", { ...jobData(id), offset: 0, error: job.error });
    this.#jobStatus(id, "concluded");
  }

  #dismissJob(id: string): void {
    const job = this.jobs.get(id);
    if (!job) throw new Refusal("Job not found");
    if (job.status !== "concluded") {
      throw new Refusal(
        `Job '${id}' in state '${job.status}' cannot accept command verb 'dismiss'`,
      );
    }
    this.jobs.delete(id);
    this.#jobStatus(id, "null");
  }

  #jobStatus(id: string, status: string): void {
    this.#qemu.emit("JOB_STATUS_CHANGE", { id, status });
  }
}

function statusOf({ status, paused }: Job): string {
  if (!paused || status === "concluded") return status;
  return status === "ready" ? "standby" : "paused";
}

function placeOf({ type, host = "", port, path = "" }: Record<string, string>): Place {
  return type === "inet" ? { type, host, port: Number(port) } : { type: "unix", path };
}

function jobData(device: string): Args {
  return { type: "mirror", device, len: DISK_BYTES, offset: DISK_BYTES, speed: 0 };
}

function describeNode(file: string, index: number) {
  return {
    file,
    "node-name": `#block${index}`,
    drv: "raw",
    ro: false,
    image: { filename: file, format: "raw", "virtual-size": DISK_BYTES, "actual-size": 0 },
  };
}
