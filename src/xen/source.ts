// A Xen domain as the source's story sees a guest: inspected, sent, let run on, or ended.

import { AgentError, quote } from "../base/errors.ts";
import { identifyProcess, type ProcessIdentity } from "../base/process_identity.ts";
import type { Remain } from "../base/remains.ts";
import type { DiskChoice } from "../guest/disks.ts";
import type { QemuFeatures } from "../guest/features.ts";
import type { XenParams } from "../guest/params.ts";
import type { SourceGuest } from "../guest/source.ts";
import type { QmpClient } from "../qmp/client.ts";
import { inspectDomain, type InspectedDomain } from "./domain.ts";
import { XenOutgoing } from "./outgoing.ts";
import { type PipeCommand, recoverDomain } from "./recovery.ts";

export class XenSource implements SourceGuest {
  readonly process: ProcessIdentity;
  readonly #inspected: InspectedDomain;
  readonly #pipe: PipeCommand;
  readonly #failure = new AbortController();
  #shouldRun: boolean;
  #outgoing: XenOutgoing | undefined;

  private constructor(
    inspected: InspectedDomain,
    { process, pipe }: { process: ProcessIdentity; pipe: PipeCommand },
  ) {
    this.#inspected = inspected;
    this.process = process;
    this.#pipe = pipe;
    this.#shouldRun = inspected.params.running;
    inspected.qmp.ended.addEventListener("abort", () => this.#fail(), { once: true });
  }

  /**
   * Inspects the domain of that name or id. Close it in the end.
   * @param options.pipe the command that `xl migrate` shall run: `migrate-agent xen-pipe`
   * @throws AgentError (kind refused) with the reason why this domain cannot be moved
   */
  static async open(
    name: string,
    options: { choice: DiskChoice; pipe: PipeCommand; signal: AbortSignal },
  ): Promise<XenSource> {
    const inspected = await inspectDomain(name, options);
    const process = await identifyProcess(inspected.pid);
    return new XenSource(inspected, { process, pipe: options.pipe });
  }

  get params(): XenParams {
    return this.#inspected.params;
  }

  get domain(): InspectedDomain["domain"] {
    return this.#inspected.domain;
  }

  get features(): QemuFeatures {
    return this.#inspected.features;
  }

  /** The device model: it has the disks. */
  get qmp(): QmpClient {
    return this.#inspected.qmp;
  }

  /** Aborts when the device model is gone. */
  get failed(): AbortSignal {
    return this.#failure.signal;
  }

  get shouldRun(): boolean {
    return this.#shouldRun;
  }

  remain(): Remain {
    const { domain: { uuid, name }, qmp } = this.#inspected;
    return {
      kind: "xen_source",
      uuid,
      name,
      qmp: qmp.path,
      process: this.process,
      should_run: this.#shouldRun,
    };
  }

  outgoing(): XenOutgoing {
    const { domain, qmp, uses, params } = this.#inspected;
    return this.#outgoing = new XenOutgoing({
      domain,
      qmp,
      uses,
      memoryBytes: params.memory_bytes,
      pipe: this.#pipe,
      onSuspended: ({ paused }) => this.#shouldRun = !paused,
    });
  }

  /** Lets the guest run on under its own name if it is meant to and does not. */
  async restore(): Promise<void> {
    const lives = !this.qmp.ended.aborted;
    await recoverDomain(this.#inspected.domain, { pipe: this.#pipe, run: lives });
    this.#shouldRun &&= lives; // nothing could let it run on
  }

  /** The guest runs elsewhere: ends it here. */
  async quit(_signal: AbortSignal): Promise<void> {
    await this.#outgoing!.handOver();
  }

  async close(): Promise<void> {
    this.#outgoing?.[Symbol.dispose]();
    await this.#inspected.qmp.close();
  }

  #fail(): void {
    const { domain: { domid, name }, qmp } = this.#inspected;
    this.#failure.abort(
      new AgentError(
        "source_qemu_ended",
        `The device model of domain ${quote(name)} (process ${this.process.pid}) has ended: the ` +
          `guest has lost its disks and all other devices`,
        {
          side: "source",
          cause: qmp.ended.reason,
          hint: `end the domain and start it anew: xl destroy ${domid}; its disks are here`,
        },
      ),
    );
  }
}
