// One migration on one side: which phase it is in, what ends it, what is to be undone, how long each
// phase took. Both stories run inside one of these. Knows nothing of QEMU or the wire.

import { AgentError, type Side, toAgentError } from "../base/errors.ts";
import { Deadline } from "../base/deadline.ts";
import type { AgentEvent, EventBody } from "./events.ts";
import { type PhaseName, phaseOf, PHASES, RFC_STEPS } from "./phases.ts";
import { pointOf, type StepName } from "./steps.ts";
import { UndoLedger } from "./undo.ts";

export interface MigrationOptions {
  side: Side;
  /** Receives every event, complete with its head. */
  emit: (event: AgentEvent) => void;
  /** Cancels the migration with its reason: a signal, `cancel`, the end of the program. */
  cancel: AbortSignal;
  /** Called before and after every step with the point's name; what it throws fails the step. */
  pass?: (point: string, signal: AbortSignal) => Promise<void>;
}

export class Migration {
  readonly side: Side;
  readonly undo = new UndoLedger();
  /** Told by the receiver, so unknown at first. */
  id: string | null = null;
  /** Aborts when somebody asks to stop, whatever else happens. */
  readonly cancelled: AbortSignal;
  /** Told of each phase that begins while the guest runs. */
  journal: { update(change: { phase: PhaseName }): Promise<void> } | undefined;
  readonly #emit: (event: AgentEvent) => void;
  readonly #failure = new AbortController();
  readonly #signal: AbortSignal;
  readonly #pass: NonNullable<MigrationOptions["pass"]> | undefined;
  readonly #startedAt = performance.now();
  readonly #durations: { phase: PhaseName; ms: number }[] = [];
  #phase: PhaseName | null = null;
  #inPhase = false;

  constructor(options: MigrationOptions) {
    this.side = options.side;
    this.#emit = options.emit;
    this.cancelled = options.cancel;
    this.#signal = AbortSignal.any([options.cancel, this.#failure.signal]);
    this.#pass = options.pass;
    options.cancel.addEventListener("abort", () => this.#lateCancel(), { once: true });
  }

  /** Aborts when this migration has failed or was cancelled, with that error as its reason. */
  get signal(): AbortSignal {
    return this.#signal;
  }

  get phase(): PhaseName | null {
    return this.#phase;
  }

  get elapsedMs(): number {
    return performance.now() - this.#startedAt;
  }

  get durations(): readonly { phase: PhaseName; ms: number }[] {
    return this.#durations;
  }

  readonly report = (body: EventBody): void => {
    this.#emit({
      time: new Date().toISOString(),
      side: this.side,
      phase: this.#phase,
      migration_id: this.id,
      ...body,
    });
  };

  /** Says that one of the RFC's major steps has been reached. */
  step(number: number): void {
    const { text } = RFC_STEPS.find(({ step }) => step === number)!;
    this.report({ type: "step", step: number, text });
  }

  /** The first failure ends the migration; later ones are consequences of it. */
  fail(error: unknown): void {
    if (this.#signal.aborted) return;
    const context = this.#phase === null ? {} : { phase: this.#phase };
    this.#failure.abort(toAgentError(error, { side: this.side, ...context }));
  }

  /** The migration fails when `work` does. For what must go on in the background all the time. */
  guard(work: Promise<unknown>): void {
    work.catch((error) => this.fail(error));
  }

  /** The migration fails with that signal's reason when it aborts, until the function it gives is called. */
  failWith(signal: AbortSignal): () => void {
    const fail = () => this.fail(signal.reason);
    if (signal.aborted) fail();
    else signal.addEventListener("abort", fail, { once: true });
    return () => signal.removeEventListener("abort", fail);
  }

  /** Runs one step of the present phase, between its two points (steps.ts). */
  async run<T>(name: StepName, work: () => Promise<T>): Promise<T> {
    if (!this.#pass) return await work();
    const step = { side: this.side, phase: this.#phase!, name };
    await this.#pass(pointOf(step, "before"), this.#signal);
    const result = await work();
    await this.#pass(pointOf(step, "after"), this.#signal);
    return result;
  }

  /**
   * Runs one phase under its time limit. `work` must end when its signal aborts. What it throws
   * carries the phase and the side.
   * A phase that is not cancellable goes on when the migration is cancelled or fails.
   */
  async runPhase<T>(name: PhaseName, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    this.#enter(name);
    this.#inPhase = true;
    const { limitMs, cancellable, title, guestRuns } = phaseOf(name);
    const began = performance.now();
    using deadline = new Deadline(
      limitMs ?? Infinity,
      () =>
        new AgentError("phase_timeout", `${title} took longer than ${limitMs! / 1000} s`, {
          kind: "timeout",
        }),
      cancellable ? this.#signal : undefined,
    );
    try {
      // While the guest stands still nothing is written that need not be.
      if (guestRuns) await this.journal?.update({ phase: name });
      return await work(deadline.signal);
    } catch (error) {
      // What a wait throws after the migration has failed is a consequence of that failure.
      const cause: unknown = cancellable && deadline.signal.aborted
        ? deadline.signal.reason
        : error;
      const failure = toAgentError(cause, { side: this.side, phase: name });
      this.fail(failure); // ends what goes on in the background
      throw failure;
    } finally {
      this.#inPhase = false;
      this.#durations.push({ phase: name, ms: Math.round(performance.now() - began) });
    }
  }

  /** Somebody asks to stop when that is not possible any more. */
  #lateCancel(): void {
    if (!this.#inPhase || phaseOf(this.#phase!).cancellable) return;
    const text = "This cannot be cancelled any more: the guest is being handed over";
    this.report({ type: "warning", code: "too_late_to_cancel", text });
  }

  #enter(name: PhaseName): void {
    const order = PHASES.map((phase) => phase.name);
    if (this.#phase !== null && order.indexOf(name) <= order.indexOf(this.#phase)) {
      throw new AgentError("phase_order", `Phase '${name}' cannot follow '${this.#phase}'`, {
        kind: "internal",
      });
    }
    this.#phase = name;
    this.report({ type: "phase", title: phaseOf(name).title });
  }
}
