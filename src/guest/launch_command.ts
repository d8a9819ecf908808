// The destination's QEMU is started by the operator's own command: it gets what is known as JSON on
// stdin, starts QEMU with `-incoming defer`, and prints one JSON object that names the QMP socket.
// Specification: docs/launch.md, "Your own command".

import * as v from "valibot";
import { Deadline, delay } from "../base/deadline.ts";
import { AgentError, describeError, quote } from "../base/errors.ts";
import { identifyProcess } from "../base/process_identity.ts";
import { QmpClient } from "../qmp/client.ts";
import type {
  DestinationHost,
  DestinationPlan,
  DestinationQemu,
  RegisterUndo,
} from "./destination.ts";
import { checkFits } from "./fits.ts";
import { makeTargets } from "./image_files.ts";
import type { QemuParams } from "./params.ts";
import { endProcess, isAlive } from "./proc.ts";
import { findSocketOwner, readProcess } from "./process.ts";
import { type DiskPlacement, planTargets } from "./target_disks.ts";

/** How long QEMU may take to listen after the command has said where it will. */
const SOCKET_TIMEOUT_MS = 10_000;
const LOOK_MS = 50;

const AnswerSchema = v.object({ qmp: v.pipe(v.string(), v.startsWith("/")) });

export interface CommandOptions {
  /** Run by `sh -c`. */
  command: string;
  placement: DiskPlacement;
}

export class CommandHost implements DestinationHost {
  readonly #options: CommandOptions;

  constructor(options: CommandOptions) {
    this.#options = options;
  }

  async plan(params: QemuParams, _signal: AbortSignal): Promise<DestinationPlan> {
    const targets = await planTargets(params.disks, this.#options.placement);
    return { binary: null, qemuVersion: "0.0.0", targets, warnings: [], place: null };
  }

  async start(
    params: QemuParams,
    options: { plan: DestinationPlan; onEffect: RegisterUndo; signal: AbortSignal },
  ): Promise<DestinationQemu> {
    const { plan, onEffect, signal } = options;
    await makeTargets(plan.targets, { onEffect, signal });
    const disks = plan.targets.map(({ disk, path, protocol }) => ({
      name: disk.name,
      action: disk.action,
      format: disk.format,
      protocol,
      path,
    }));
    const path = await this.#run(JSON.stringify({ params, disks }), signal);
    const pid = await this.#waitForSocket(path, signal);
    await onEffect(`end the QEMU that ${quote(this.#options.command)} started`, async () => {
      if (await isAlive(pid)) await endProcess(pid);
    }, { kind: "process", what: "the launched QEMU", process: await identifyProcess(pid) });
    const qmp = await QmpClient.connect(path, { signal });
    await onEffect("close the QMP connection", () => qmp.close());
    const { resolvePath } = await readProcess(pid);
    await checkFits(qmp, { params, resolvePath, signal });
    return { qmp, pid };
  }

  async close(): Promise<void> {}

  /** Waits until QEMU listens on the socket; its process. Nothing tells when a socket listens. */
  async #waitForSocket(path: string, signal: AbortSignal): Promise<number> {
    using limit = new Deadline(
      SOCKET_TIMEOUT_MS,
      () => this.#failure(`named the QMP socket ${quote(path)}, on which nobody listens`),
      signal,
    );
    while (true) {
      try {
        return await findSocketOwner(path);
      } catch (error) {
        const notYet = error instanceof Deno.errors.NotFound ||
          (error instanceof AgentError && error.code === "qemu_process_unknown");
        if (!notYet) throw error;
        await delay(LOOK_MS, limit.signal);
      }
    }
  }

  #failure(why: string, cause?: unknown): AgentError {
    const { command } = this.#options;
    return new AgentError("launch_command_failed", `--launch-command ${quote(command)} ${why}`, {
      side: "destination",
      cause,
    });
  }

  /** Runs the command; the QMP socket that it names. */
  async #run(input: string, signal: AbortSignal): Promise<string> {
    const { command } = this.#options;
    const child = new Deno.Command("sh", {
      args: ["-c", command],
      signal,
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const output = child.output();
    try {
      const writer = child.stdin.getWriter();
      await writer.write(new TextEncoder().encode(input));
      await writer.close();
    } catch (error) {
      // A command that does not read its stdin is free not to; how it ended says more than this.
      // Deno closes the stdin of a process that has ended, which makes it a TypeError.
      if (!(error instanceof Deno.errors.BrokenPipe || error instanceof TypeError)) throw error;
    }
    const { success, code, stdout, stderr } = await output;
    signal.throwIfAborted();
    const text = new TextDecoder();
    if (!success) throw this.#failure(`failed with ${code}: ${text.decode(stderr).trim()}`);
    try {
      return v.parse(AnswerSchema, JSON.parse(text.decode(stdout))).qmp;
    } catch (cause) {
      throw this.#failure(
        `did not print {"qmp": "/path"}: ${describeError(cause)}: ${
          quote(text.decode(stdout).trim())
        }`,
        cause,
      );
    }
  }
}
