// The options that `send` and `receive` share as agents of one migration: how long they wait for each
// other, where their journals are, and the faults that tests strike them with.

import { FAULT_POINTS } from "../migration/steps.ts";
import {
  type Given,
  type OptionSpec,
  type Reader,
  refuseValue,
  type Surroundings,
} from "./option_spec.ts";
import { quote } from "../base/errors.ts";
import { readStateDir, STATE_DIR_OPTION } from "./state_dir.ts";
import { readDuration } from "./values.ts";

const PEER_TIMEOUT_MS = 3000;
const FAULT_ACTIONS = ["error", "hold", "kill"] as const;

/** A fault at a step of the story, for tests. */
export interface Fault {
  point: string;
  /** The step fails; waits there for SIGUSR1; or the process is killed. */
  action: (typeof FAULT_ACTIONS)[number];
}

export interface AgentOptions {
  /** How long the other agent may be silent before it is taken to be gone. */
  peerTimeoutMs: number;
  /** Where the journals are. */
  stateDir: string;
  fault: Fault | null;
}

export const AGENT_OPTIONS = [
  {
    name: "peer-timeout",
    value: "TIME",
    default: "3s",
    group: "Limits",
    help: "How long the other agent may be silent before it counts as lost.",
  },
  {
    name: "fail-at",
    value: "POINT[:ACTION]",
    hidden: true,
    group: "Tests",
    help: "Strike at a point of 'migrate-agent help fault-points': error, hold or kill.",
  },
  STATE_DIR_OPTION,
] as const satisfies readonly OptionSpec[];

type Names = (typeof AGENT_OPTIONS)[number]["name"];

export function readAgentOptions(given: Given<Names>, around: Surroundings): AgentOptions {
  return {
    peerTimeoutMs: given.one("peer-timeout", readDuration()) ?? PEER_TIMEOUT_MS,
    stateDir: readStateDir(given, around),
    fault: given.one("fail-at", readFault),
  };
}

const readFault: Reader<Fault> = (text, option) => {
  const [point = "", word = "error"] = text.split(":");
  const action = FAULT_ACTIONS.find((action) => action === word);
  if (FAULT_POINTS.includes(point) && action !== undefined) return { point, action };
  return refuseValue(
    option,
    quote(text),
    "is no point and action: 'migrate-agent help fault-points' lists the points; " +
      `the actions are ${FAULT_ACTIONS.join(", ")}`,
  );
};
