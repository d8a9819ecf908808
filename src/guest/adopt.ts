// The destination's QEMU was started by somebody else (a systemd unit, an Ansible task) with
// `-incoming defer`: checks that it fits and uses it with the disks that it has.

import { AgentError } from "../base/errors.ts";
import { identifyProcess } from "../base/process_identity.ts";
import { QmpClient } from "../qmp/client.ts";
import type {
  DestinationHost,
  DestinationPlan,
  DestinationQemu,
  RegisterUndo,
  TargetDisk,
} from "./destination.ts";
import { checkFits } from "./fits.ts";
import type { Disk, QemuParams } from "./params.ts";
import { findSocketOwner, readProcess } from "./process.ts";
import { endProcess } from "./proc.ts";

export class AdoptHost implements DestinationHost {
  readonly #qmpPath: string;
  /** Connected while planning and kept: a QMP socket serves one client, and it stays ours. */
  #adopted: { qmp: QmpClient; pid: number } | undefined;

  constructor(qmpPath: string) {
    this.#qmpPath = qmpPath;
  }

  async plan(params: QemuParams, signal: AbortSignal): Promise<DestinationPlan> {
    const process = await readProcess(await findSocketOwner(this.#qmpPath));
    const qmp = await QmpClient.connect(this.#qmpPath, { signal });
    try {
      const { resolvePath } = process;
      const disks = await checkFits(qmp, { params, resolvePath, signal });
      const targets = params.disks.map((disk) => adoptTarget(disk, disks.get(disk.name)!));
      this.#adopted = { qmp, pid: process.pid };
      const { major, minor, micro } = qmp.version;
      return {
        binary: null,
        qemuVersion: `${major}.${minor}.${micro}`,
        targets,
        warnings: [],
        place: { kind: "qmp", path: await Deno.realPath(this.#qmpPath) },
      };
    } catch (error) {
      await qmp.close();
      throw error;
    }
  }

  async start(
    _params: QemuParams,
    options: { plan: DestinationPlan; onEffect: RegisterUndo; signal: AbortSignal },
  ): Promise<DestinationQemu> {
    const { qmp, pid } = this.#adopted!;
    // From now on it may hold a part of the guest: whoever started it starts a new one for a new try.
    await options.onEffect(`end the adopted QEMU (process ${pid})`, async () => {
      await qmp.close();
      await endProcess(pid);
    }, { kind: "process", what: "the adopted QEMU", process: await identifyProcess(pid) });
    return { qmp, pid };
  }

  async close(): Promise<void> {
    await this.#adopted?.qmp.close();
  }
}

/** The adopted QEMU's own disk is the target: it exists, and is opened by that QEMU already. */
function adoptTarget(disk: Disk, present: Disk): TargetDisk {
  if (disk.action === "mirror" && present.path === null) {
    throw new AgentError(
      "qemu_does_not_fit",
      `Disk '${disk.name}' of the adopted QEMU is not a local file or block device`,
      { kind: "refused", side: "destination" },
    );
  }
  return {
    disk: { ...disk, format: present.format },
    path: present.path,
    protocol: present.protocol === "host_device" ? "host_device" : "file",
    create: false,
    note: disk.backing.length > 0 ? "backing chain copied flat" : null,
  };
}
