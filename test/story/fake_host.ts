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
  #qemu: FakeQemu | undefined;

  constructor(options: { folder: string; start: () => FakeQemu }) {
    this.#folder = options.folder;
    this.#start = options.start;
  }

  plan(params: QemuParams): Promise<DestinationPlan> {
    return Promise.resolve({
      binary: "/usr/bin/qemu-system-x86_64",
      qemuVersion: "7.2.0",
      warnings: [],
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
    const qemu = this.#qemu = this.#start();
    onEffect("end the QEMU that was started", () => Promise.resolve(qemu.end()));
    const qmp = await QmpClient.connect(qemu.qmpPath, { signal });
    onEffect("close the QMP connection", () => qmp.close());
    return { qmp, pid: Deno.pid };
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#qemu?.[Symbol.asyncDispose]();
  }
}
