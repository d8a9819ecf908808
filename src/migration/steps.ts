// Every step of both stories by name, as data: what a log and a fault can refer to. A story runs each
// of its steps through `Migration.run`, which passes a point before it and one after it; so the list
// of points is complete by construction.

import type { Side } from "../base/errors.ts";
import type { PhaseName } from "./phases.ts";

export interface Step {
  readonly side: Side;
  readonly phase: PhaseName;
  readonly name: StepName;
}

const SOURCE_STEPS = {
  preflight: ["inspect", "connect", "hello", "open_journal", "plan"],
  params: ["prepare"],
  mirror: ["reach_nbd", "start_mirrors", "wait_ready"],
  ram: ["configure_ram", "incoming", "flush", "start_ram", "wait_stopped"],
  switchover: ["finish_mirrors", "journal_handover", "finish_ram"],
  handover: ["hand_over", "journal_outcome"],
  end: ["remove_key", "quit", "finish"],
} as const satisfies Record<PhaseName, readonly string[]>;

const DESTINATION_STEPS = {
  preflight: ["hello", "receive_params", "plan", "open_journal"],
  params: ["start_qemu", "start_exports"],
  mirror: ["wait_incoming"],
  ram: ["flush", "incoming", "wait_arrived"],
  switchover: ["stop_exports", "load", "wait_handover"],
  handover: ["journal_accepted", "resume"],
  end: ["remove_key", "journal_running", "wait_finish"],
} as const satisfies Record<PhaseName, readonly string[]>;

const STEPS_OF = { source: SOURCE_STEPS, destination: DESTINATION_STEPS };

export type StepName =
  | typeof SOURCE_STEPS[PhaseName][number]
  | typeof DESTINATION_STEPS[PhaseName][number];

/** In the order in which each side comes to them. */
export const STEPS: readonly Step[] = (["source", "destination"] as const).flatMap((side) =>
  Object.entries(STEPS_OF[side]).flatMap(([phase, names]) =>
    (names as readonly StepName[]).map((name) => ({ side, phase: phase as PhaseName, name }))
  )
);

/** `SIDE.PHASE.STEP.before` and `.after` of every step. */
export const FAULT_POINTS: readonly string[] = STEPS.flatMap((step) => [
  pointOf(step, "before"),
  pointOf(step, "after"),
]);

export function pointOf({ side, phase, name }: Step, when: "before" | "after"): string {
  return `${side}.${phase}.${name}.${when}`;
}
