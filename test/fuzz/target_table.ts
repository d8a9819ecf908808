// Every parser that sees the peer's bytes. A new one is a row here.

import { COMMAND_LINE_TARGET } from "./targets/command_line.ts";
import { FRAME_TARGET, SESSION_TARGET } from "./targets/frames.ts";
import { KEYVAL_TARGET } from "./targets/keyval.ts";
import { PROOF_TARGET, TICKET_TARGET } from "./targets/link.ts";
import { CHANNEL_TARGET, DOCUMENT_TARGET, MESSAGE_TARGET } from "./targets/messages.ts";
import { PARAMS_TARGET } from "./targets/params.ts";
import { PATH_TARGET } from "./targets/paths.ts";
import { XEN_TARGET } from "./targets/xen.ts";
import type { Target } from "./target.ts";

export const TARGETS: readonly Target[] = [
  FRAME_TARGET,
  SESSION_TARGET,
  PROOF_TARGET,
  TICKET_TARGET,
  MESSAGE_TARGET,
  CHANNEL_TARGET,
  DOCUMENT_TARGET,
  PARAMS_TARGET,
  KEYVAL_TARGET,
  COMMAND_LINE_TARGET,
  PATH_TARGET,
  XEN_TARGET,
] as readonly Target[];

/** The target of that name; throws when there is none. */
export function targetNamed(name: string): Target {
  const found = TARGETS.find((target) => target.name === name);
  if (found) return found;
  throw new Error(`No target '${name}'; there are ${TARGETS.map(({ name }) => name).join(", ")}`);
}
