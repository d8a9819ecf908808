// The destination's hypervisor without one: plans like a launch, makes its targets for real, and
// "starts" a fake QEMU.

import type {
  DestinationHost,
  DestinationPlan,
  DestinationQemu,
  RegisterUndo,
} from "../../src/guest/destination.ts";
import { makeTargets } from "../../src/guest/image_files.ts";
import type { QemuParams } from "../../src/guest/params.ts";
import { QmpClient } from "../../src/qmp/client.ts";
import type { FakeQemu } from "./fake_qemu.ts";

export class FakeHost implements DestinationHost, AsyncDisposable {
  readonly #folder: string;
  readonly #start: () => FakeQemu;
  /** Those that were started, the last one being the present one. */
  readonly #qemus: FakeQemu[] = [];

  constructor(options: { folder: string; start: () => FakeQemu }) {
    this.#folder = options.folder;
    this.#start = options.start;
  }

  plan(params: QemuParams): Promise<DestinationPlan> {
    return Promise.resolve({
      binary: "/usr/bin/qemu-system-x86_64",
      qemuVersion: "7.2.0",
      warnings: [],
      place: { kind: "folder", path: `${this.#folder}/guest` },
      targets: params.disks.map((disk) => ({
        disk,
        path: disk.action === "mirror" ? `${this.#folder}/${disk.name}` : disk.path,
        protocol: "file",
        create: disk.action === "mirror",
        note: null,
      })),
    });
  }

  async start(
    _params: QemuParams,
    options: { plan: DestinationPlan; onEffect: RegisterUndo; signal: AbortSignal },
  ): Promise<DestinationQemu> {
    const { plan, onEffect, signal } = options;
    await makeTargets(plan.targets, { onEffect, signal });
    await onEffect("end the QEMU that was started", async () => {
      await this.#qemus.at(-1)?.[Symbol.asyncDispose]();
    });
    return await this.#run(onEffect, signal);
  }

  async #run(onEffect: RegisterUndo, signal: AbortSignal): Promise<DestinationQemu> {
    const qemu = this.#start();
    this.#qemus.push(qemu);
    const qmp = await QmpClient.connect(qemu.qmpPath, { signal });
    await onEffect("close the QMP connection", () => qmp.close());
    const restart = async (signal: AbortSignal) => {
      await qmp.close();
      await qemu[Symbol.asyncDispose]();
      return await this.#run(onEffect, signal);
    };
    return { qmp, pid: qemu.pid, restart };
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const qemu of this.#qemus) await qemu[Symbol.asyncDispose]();
  }
}
