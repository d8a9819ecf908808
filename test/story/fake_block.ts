// The block layer of a fake QEMU: nodes, mirror jobs, the NBD server and its exports, with the states,
// events and refusals of QEMU 7.2. No byte is copied.

import { type Args, type FakeQemu, Refusal } from "./fake_qemu.ts";

interface Job {
  device: string;
  target: string;
  status: "running" | "ready" | "concluded";
  error?: string;
}

export const DISK_BYTES = 1 << 20;

export class FakeBlock {
  readonly nodes = new Map<string, Args>();
  readonly jobs = new Map<string, Job>();
  /** Exported nodes by the name of their export. */
  readonly exports = new Map<string, string>();
  /** Whether the NBD server is there. */
  listens = false;
  readonly #qemu: FakeQemu;
  readonly #disks: readonly string[];
  readonly #nbdPeer: () => FakeQemu | undefined;

  constructor(
    qemu: FakeQemu,
    options: { disks: readonly string[]; nbdPeer: () => FakeQemu | undefined },
  ) {
    this.#qemu = qemu;
    this.#disks = options.disks;
    this.#nbdPeer = options.nbdPeer;
  }

  /** The end of the process. */
  close(): void {
    this.listens = false;
    this.exports.clear();
    this.#peer?.serverGone();
  }

  /** The NBD server at the other end is gone: what copies just now fails. */
  serverGone(): void {
    this.cutOff(() => true);
  }

  /** A job that copies fails soon after, one after the other; one that is ready does not notice. */
  cutOff(match: (job: Job) => boolean): void {
    [...this.jobs].forEach(([id, job], index) => {
      if (job.status !== "running" || !match(job)) return;
      this.#qemu.later(() => this.#failJob(id, job), 3 * index);
    });
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
    "block-job-set-speed": (args) => void this.#activeJob(String(args.device), "set-speed"),
    "block-job-cancel": (args) => this.#cancelJob(String(args.device), args.force === true),
    "job-dismiss": (args) => this.#dismissJob(String(args.id)),
    "query-jobs": () =>
      [...this.jobs].map(([id, { status, error }]) => ({
        id,
        type: "mirror",
        status,
        ...(error === undefined ? {} : { error }),
      })),
    "query-block-jobs": () =>
      [...this.jobs].map(([device, { status }]) => ({
        type: "mirror",
        device,
        len: DISK_BYTES,
        offset: status === "running" ? 0 : DISK_BYTES,
        speed: 0,
        ready: status === "ready",
        status,
      })),
    "nbd-server-start": () => {
      if (this.listens) throw new Refusal("NBD server already running");
      this.listens = true;
    },
    "block-export-add": (args) => {
      if (!this.listens) throw new Refusal("NBD server not running");
      this.exports.set(String(args.name), String(args["node-name"]));
    },
    "nbd-server-stop": () => {
      if (!this.listens) throw new Refusal("NBD server not running");
      this.listens = false;
      this.exports.clear();
      this.#peer?.serverGone();
    },
  };

  get #peer(): FakeBlock | undefined {
    return this.#nbdPeer()?.block;
  }

  #addNode(args: Args): void {
    const name = String(args["node-name"]);
    if (this.nodes.has(name)) throw new Refusal(`Duplicate nodes with node-name='${name}'`);
    if (args.driver === "nbd") {
      const server = this.#peer;
      if (!server?.listens) throw new Refusal("Failed to connect: Connection refused");
      if (!server.exports.has(String(args.export))) {
        throw new Refusal(`Requested export '${args.export}' not available`);
      }
    }
    this.nodes.set(name, args);
  }

  #deleteNode(name: string): void {
    if (!this.nodes.has(name)) throw new Refusal(`Failed to find node with node-name='${name}'`);
    const used = [...this.jobs.values()].some((job) =>
      job.target === name && job.status !== "concluded"
    );
    if (used || [...this.exports.values()].includes(name)) {
      throw new Refusal(`Node ${name} is in use`);
    }
    this.nodes.delete(name);
  }

  #startMirror(args: Args): void {
    const id = String(args["job-id"]);
    const job: Job = {
      device: String(args.device),
      target: String(args.target),
      status: "running",
    };
    if (!this.nodes.has(job.target)) throw new Refusal(`Cannot find device='${job.target}'`);
    this.jobs.set(id, job);
    this.#jobStatus(id, "created");
    this.#jobStatus(id, "running");
    if (this.#qemu.stalls("mirror_ready")) return;
    this.#qemu.later(() => {
      if (job.status !== "running") return;
      job.status = "ready";
      this.#jobStatus(id, "ready");
      this.#qemu.emit("BLOCK_JOB_READY", jobData(id));
    });
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
    if (job.status === "ready" && !force) {
      this.#qemu.later(() => {
        if (job.status === "concluded") return;
        if (!this.#peer?.listens) return this.#failJob(id, job);
        job.status = "concluded";
        this.#jobStatus(id, "waiting");
        this.#jobStatus(id, "pending");
        this.#qemu.emit("BLOCK_JOB_COMPLETED", jobData(id));
        this.#jobStatus(id, "concluded");
      });
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
