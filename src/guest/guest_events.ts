// What happens to the guest at the source while it is moved, by its own doing or somebody else's: it
// shuts down, reboots, panics, is stopped or resumed, meets I/O errors; or its QEMU is gone. Says
// which of these end the migration, and keeps whether the guest is meant to run: the stop that the
// migration itself makes does not count. Knows nothing of phases.
// Specification: QMP events SHUTDOWN, GUEST_PANICKED, RESET, STOP, RESUME, BLOCK_IO_ERROR; docs/faults.md.

import { AgentError, quote, toAgentError } from "../base/errors.ts";
import type { QmpClient } from "../qmp/client.ts";
import type { EventSubscription, QmpEvent } from "../qmp/events.ts";
import { letRunOn } from "./run_state.ts";

const RESTORE_TIMEOUT_MS = 10_000;
const EVENTS = ["SHUTDOWN", "GUEST_PANICKED", "RESET", "STOP", "RESUME", "BLOCK_IO_ERROR"];
/** Run states between the migration's own stop and its end. */
const OWN_STOPS = new Set(["finish-migrate", "postmigrate"]);
/** A migration in one of these is over without success: QEMU itself lets the guest run on then. */
const GIVEN_UP = new Set(["failed", "cancelling", "cancelled", "none"]);
/** A guest that reboots without end, or whose disk is sick, must not fill the log. */
const MAX_WARNINGS = 20;

/** Something that an operator should know and that does not end the migration. */
export interface GuestWarning {
  code: string;
  text: string;
}

export class GuestEvents implements Disposable {
  readonly #qmp: QmpClient;
  readonly #report: (warning: GuestWarning) => void;
  readonly #events: EventSubscription;
  readonly #failure = new AbortController();
  readonly #stop = new AbortController();
  readonly #ioErrors = new Set<string>();
  #warnings = 0;
  #shouldRun = false;
  #stoppedForUs = false;

  /** Subscribes; nothing is done with the events before `follow`. */
  constructor(qmp: QmpClient, options: { warn: (warning: GuestWarning) => void }) {
    this.#qmp = qmp;
    this.#report = options.warn;
    this.#events = qmp.subscribe(...EVENTS);
  }

  /**
   * Aborts, with an AgentError as its reason, when the guest cannot be moved any more:
   * `guest_shut_down`, `guest_panicked`, `guest_resumed` (in the pause of the switchover), or
   * `source_qemu_ended`. In the same turn in which QEMU's connection ends, so that this reason is
   * there before any command fails with `qmp_lost`.
   */
  get failed(): AbortSignal {
    return this.#failure.signal;
  }

  /** Whether the guest is meant to run: as it was at first, and as others have changed it since. */
  get shouldRun(): boolean {
    return this.#shouldRun;
  }

  /** Follows the events until the end of this object; `running` is what QEMU said a moment ago. */
  follow({ running }: { running: boolean }): void {
    this.#shouldRun = running;
    const ended = () => {
      this.#shouldRun = false;
      this.#fail(qemuEnded(this.#qmp.ended.reason));
    };
    if (this.#qmp.ended.aborted) return ended();
    this.#qmp.ended.addEventListener("abort", ended, { signal: this.#stop.signal });
    this.#followEvents().catch((error) => this.#fail(toAgentError(error, { side: "source" })));
  }

  /** Lets the guest run on if it is meant to and does not. For a source that keeps its guest. */
  async restore(): Promise<void> {
    if (!this.#shouldRun) return;
    this.#stoppedForUs = false; // what resumes it now is no stranger
    await letRunOn(this.#qmp, AbortSignal.timeout(RESTORE_TIMEOUT_MS));
  }

  /** Follows no longer. Before this program itself ends QEMU. */
  [Symbol.dispose](): void {
    this.#stop.abort();
    this.#events[Symbol.dispose]();
  }

  async #followEvents(): Promise<void> {
    const stop = AbortSignal.any([this.#stop.signal, this.#qmp.ended]);
    try {
      for (;;) await this.#take(await this.#events.next(stop));
    } catch (error) {
      if (!stop.aborted) throw error; // QEMU's end is told by its own listener
    }
  }

  async #take({ event, data }: QmpEvent): Promise<void> {
    switch (event) {
      case "SHUTDOWN":
        this.#shouldRun = false;
        return this.#fail(shutDown(data));
      case "GUEST_PANICKED":
        if (data.action !== "run") {
          this.#shouldRun = false;
          return this.#fail(panicked());
        }
        return this.#warn({
          code: "guest_panicked",
          text: "The guest reported a panic; its QEMU lets it run on, and so it is moved on",
        });
      case "RESET":
        return this.#warn({
          code: "guest_reset",
          text: `The guest was reset (${word(data.reason)}): it boots again and is moved on`,
        });
      case "STOP":
        return await this.#takeStop();
      case "RESUME":
        return await this.#takeResume();
      case "BLOCK_IO_ERROR":
        return this.#takeIoError(data);
    }
  }

  async #takeStop(): Promise<void> {
    const { status, running } = await this.#qmp.execute("query-status", {}, this.#whileFollowing());
    if (running) return; // resumed again meanwhile
    if (OWN_STOPS.has(status)) {
      this.#stoppedForUs = true;
      return;
    }
    this.#shouldRun = false;
    this.#warn({
      code: "guest_stopped",
      text: `The guest was stopped meanwhile, not by this program (QEMU's state is ` +
        `${word(status)}): it is moved on and stays stopped where it arrives`,
    });
  }

  async #takeResume(): Promise<void> {
    if (this.#stoppedForUs) {
      this.#stoppedForUs = false;
      const { status } = await this.#qmp.execute("query-migrate", {}, this.#whileFollowing());
      if (!GIVEN_UP.has(status ?? "none")) return this.#fail(resumed());
    }
    this.#shouldRun = true;
  }

  #takeIoError(data: Record<string, unknown>): void {
    const { device, operation, action, reason } = data;
    const key = [device, data["node-name"], operation, action].join(" ");
    if (this.#ioErrors.has(key)) return; // a sick disk fails every request
    if (this.#warnings < MAX_WARNINGS) this.#ioErrors.add(key);
    const then = action === "stop" ? "QEMU stopped the guest" : "the guest runs on";
    this.#warn({
      code: "guest_io_error",
      text: `A ${word(operation)} of the guest on its disk ` +
        `${quote(String(device || data["node-name"] || data["qom-path"]))} failed ` +
        `(${word(reason)}): ${then}`,
    });
  }

  /** Nothing more once the migration has failed by the guest: what follows belongs to that. */
  #warn(warning: GuestWarning): void {
    if (!this.#failure.signal.aborted && ++this.#warnings <= MAX_WARNINGS) this.#report(warning);
  }

  #whileFollowing(): { signal: AbortSignal } {
    return { signal: this.#stop.signal };
  }

  #fail(error: AgentError): void {
    if (!this.#stop.signal.aborted) this.#failure.abort(error);
  }
}

function shutDown({ guest, reason }: Record<string, unknown>): AgentError {
  if (guest !== true) {
    return new AgentError(
      "source_qemu_ended",
      `Somebody ended the guest's QEMU while it was being moved (${word(reason)})`,
      { side: "source", hint: "the guest is off and its disks are here: start it here again" },
    );
  }
  const text = reason === "guest-reset"
    ? "The guest rebooted while it was being moved, and its QEMU ends on that"
    : `The guest shut down while it was being moved (${word(reason)})`;
  return new AgentError("guest_shut_down", text, {
    side: "source",
    hint: "it is off and its disks are here: start it here again, or move them as files",
  });
}

function panicked(): AgentError {
  return new AgentError("guest_panicked", "The guest panicked while it was being moved", {
    side: "source",
    hint: "it stays here to be looked at, as its QEMU's option -action says",
  });
}

function resumed(): AgentError {
  return new AgentError(
    "guest_resumed",
    "Somebody resumed the guest (`cont`) while it was stopped to be handed over: it runs on here",
    { side: "source", hint: "try again, and let nobody touch the guest's QMP meanwhile" },
  );
}

function qemuEnded(cause: unknown): AgentError {
  return new AgentError(
    "source_qemu_ended",
    `The guest's QEMU is gone, and the guest with it: ${toAgentError(cause).message}`,
    {
      side: "source",
      cause,
      hint: "the guest is off and its disks are here: look at its QEMU's log, start it here again",
    },
  );
}

function word(value: unknown): string {
  return quote(String(value));
}
