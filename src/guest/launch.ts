// Starts the destination's QEMU from the source's own command line: the same machine with
// `-S -incoming defer` and this host's paths. Specification: docs/launch.md.

import { abortable } from "../base/deadline.ts";
import { AgentError, quote } from "../base/errors.ts";
import { QmpClient } from "../qmp/client.ts";
import type { Policy } from "./command_line/policy.ts";
import { rewriteCommandLine } from "./command_line/rewrite.ts";
import type {
  DestinationHost,
  DestinationPlan,
  DestinationQemu,
  RegisterUndo,
  TargetDisk,
} from "./destination.ts";
import { checkFits } from "./fits.ts";
import {
  type GuestFolder,
  guestFolder,
  makeGuestFolder,
  readPidFile,
  refuseLivingGuest,
  removeGuestFolder,
} from "./guest_folder.ts";
import { makeTargets, realPathOrNull } from "./image_files.ts";
import type { QemuParams } from "./params.ts";
import { endProcess } from "./proc.ts";
import { readProcess } from "./process.ts";
import { checkBinary, chooseBinary } from "./qemu_binary.ts";
import { type DiskPlacement, mapPath, planTargets } from "./target_disks.ts";

export interface LaunchOptions {
  binaries: readonly string[];
  runDir: string;
  /** Where the QMP socket shall be; null for the guest's folder. */
  qmpPath: string | null;
  placement: DiskPlacement;
  policy: Policy;
}

export class LaunchHost implements DestinationHost {
  readonly #options: LaunchOptions;

  constructor(options: LaunchOptions) {
    this.#options = options;
  }

  async plan(params: QemuParams, signal: AbortSignal): Promise<DestinationPlan> {
    refuseHotPlugged(params);
    const binary = await chooseBinary(params, this.#options.binaries);
    const qemuVersion = await checkBinary(binary, { params, signal });
    await refuseLivingGuest(this.#folder(params), params.name);
    const targets = await planTargets(params.disks, this.#options.placement);
    const { warnings } = this.#rewrite(params, targets);
    const { path } = this.#folder(params);
    return { binary, qemuVersion, targets, warnings, place: { kind: "folder", path } };
  }

  async start(
    params: QemuParams,
    options: { plan: DestinationPlan; onEffect: RegisterUndo; signal: AbortSignal },
  ): Promise<DestinationQemu> {
    const { plan, onEffect, signal } = options;
    const folder = this.#folder(params);
    const { path } = folder;
    await onEffect(`remove ${path}`, () => removeGuestFolder(folder), { kind: "folder", path });
    await makeGuestFolder(folder);
    await makeTargets(plan.targets, { onEffect, signal });
    return await this.#run(params, options);
  }

  async #run(
    params: QemuParams,
    options: { plan: DestinationPlan; onEffect: RegisterUndo; signal: AbortSignal },
  ): Promise<DestinationQemu> {
    const { plan, onEffect, signal } = options;
    const folder = this.#folder(params);
    const { argv } = this.#rewrite(params, plan.targets);
    const { path: cwd, pidFile } = folder;
    await daemonize(plan.binary!, { argv, pidFile, cwd, onEffect, signal });
    const pid = await readPidFile(folder.pidFile);
    if (pid === null) {
      throw new AgentError("qemu_not_started", "QEMU ended right after its start");
    }
    const qmp = await QmpClient.connect(folder.qmpPath, { signal });
    await onEffect("close the QMP connection", () => qmp.close());
    const { resolvePath } = await readProcess(pid);
    await checkFits(qmp, { params, resolvePath, signal });
    const restart = async (signal: AbortSignal) => {
      await qmp.close();
      await endProcess(pid);
      return await this.#run(params, { plan, onEffect, signal });
    };
    return { qmp, pid, logFile: folder.logFile, restart };
  }

  async close(): Promise<void> {}

  #folder(params: QemuParams): GuestFolder {
    const { runDir, qmpPath } = this.#options;
    return guestFolder(params.name, { runDir, qmpPath });
  }

  #rewrite(params: QemuParams, targets: readonly TargetDisk[]) {
    const folder = this.#folder(params);
    return rewriteCommandLine(params, {
      qmpPath: folder.qmpPath,
      pidFile: folder.pidFile,
      logFile: folder.logFile,
      runDir: folder.path,
      disks: new Map(targets.map(({ disk, path, protocol }) => [
        disk.name,
        path === null ? null : { path, protocol },
      ])),
      pathFor: (path) => mapPath(path, this.#options.placement),
      realPath: realPathOrNull,
      policy: this.#options.policy,
    });
  }
}

function refuseHotPlugged(params: QemuParams): void {
  if (params.hot_plugged.length === 0) return;
  throw new AgentError(
    "hot_plugged_device",
    `Cannot build the same machine: ${params.hot_plugged.map((id) => quote(id)).join(", ")} ` +
      `was plugged in after the start and is not on the source QEMU's command line`,
    {
      kind: "refused",
      side: "destination",
      hint: "start the destination's QEMU yourself and use receive --adopt-qmp",
    },
  );
}

/**
 * Runs QEMU with `-daemonize`: it returns when the machine is built and its sockets listen, or
 * fails with QEMU's own words.
 */
async function daemonize(
  binary: string,
  options: {
    argv: string[];
    pidFile: string;
    cwd: string;
    onEffect: RegisterUndo;
    signal: AbortSignal;
  },
): Promise<void> {
  const { argv, pidFile, cwd, onEffect, signal } = options;
  let starting = true;
  const start: { process?: Deno.ChildProcess; done?: Promise<Deno.CommandOutput> } = {};
  await onEffect("end the QEMU that was started", async () => {
    // The daemon writes its pid before it builds the machine: while there is none, ending the
    // process that was started here is all that is needed.
    const pid = await readPidFile(pidFile);
    if (pid !== null) await endProcess(pid);
    else if (starting) start.process?.kill("SIGKILL");
    await start.done;
  }, { kind: "pid_file", path: pidFile });
  start.process = new Deno.Command(binary, {
    args: argv,
    // QEMU looks for firmware and ROMs in its working folder first: never in the receiver's.
    cwd,
    stdin: "null",
    stdout: "null",
    stderr: "piped",
  }).spawn();
  start.done = start.process.output().finally(() => starting = false);
  const { success, stderr } = await abortable(start.done, signal);
  const text = new TextDecoder().decode(stderr).trim();
  if (success) return;
  throw new AgentError("qemu_not_started", `QEMU did not start: ${text || "it gave no reason"}`, {
    side: "destination",
    hint: `it was started as: ${[binary, ...argv].join(" ")}`,
  });
}
