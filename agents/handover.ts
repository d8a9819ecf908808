// The handover as the sender sees it: sent once, and asked about until it is known what became of it.
// Whoever calls this has written to the journal before that it may be sent.
// Specification: src/migration/ownership.ts, docs/safety.md.

import { AgentError, toAgentError } from "../src/base/errors.ts";
import type { Migration } from "../src/migration/migration.ts";
import type { Reach } from "./connect.ts";
import type { Line } from "./line.ts";
import { askForOutcome, type Outcome } from "./outcome.ts";
import type { Peer } from "./peer.ts";

export interface HandOverOptions {
  /** Whether the guest is to run there. */
  run: boolean;
  migration: Migration;
  reach: Reach;
  peerTimeoutMs: number;
  /** How long to ask for an answer that did not come. */
  withinMs: number;
  /** Given the connection on which the answer came when it was asked for: see askForOutcome. */
  keep: (peer: Peer) => void;
  signal: AbortSignal;
}

/**
 * Returns once the guest is the destination's.
 * @throws AgentError `handover_refused`: it is the source's for certain; or `handover_uncertain` (kind
 * uncertain): nobody knows, so it must stay paused
 */
export async function handOver(line: Line, options: HandOverOptions): Promise<void> {
  const { migration } = options;
  const outcome = await send(line, options) ?? await ask(options);
  switch (outcome) {
    case "running":
      return;
    case "never_ran":
    case "ended":
      throw refused(
        outcome === "ended"
          ? "The destination's QEMU ended right after it had been told to run the guest"
          : "The destination did not take the guest: its QEMU has ended and never ran it",
        "failed",
      );
    default:
      throw new AgentError(
        "handover_uncertain",
        "The guest was handed over, and the receiver does not tell what became of it: " +
          "it is paused here and may run at the destination",
        {
          kind: "uncertain",
          hint: `on the destination: migrate-agent resolve ${migration.id}; ` +
            `then here the same, with --keep destination (or source) as it said there`,
        },
      );
  }
}

/** Null when no answer came that leaves no doubt. @throws AgentError `handover_refused` */
async function send(
  line: Line,
  { run, migration, signal }: HandOverOptions,
): Promise<"running" | null> {
  try {
    await line.request("handover", { run }, signal);
    return "running";
  } catch (error) {
    const { code, kind, message } = toAgentError(error);
    if (code === "handover_refused" || code === "handover_ended") {
      throw refused(message, kind === "cancelled" ? kind : "failed");
    }
    const text = `No answer to the handover (${message}): asking again`;
    migration.report({ type: "warning", code: "handover_unanswered", text });
    return null;
  }
}

function refused(message: string, kind: "cancelled" | "failed"): AgentError {
  return new AgentError("handover_refused", message, { kind, side: "destination" });
}

async function ask(options: HandOverOptions): Promise<Outcome | null> {
  const { migration } = options;
  try {
    const answer = await askForOutcome({
      ...options,
      migrationId: migration.id!,
      signal: migration.cancelled,
    });
    if (answer) options.keep(answer.peer);
    return answer && answer.outcome;
  } catch (error) {
    const { code, message } = toAgentError(error);
    migration.report({ type: "warning", code, text: message });
    return null;
  }
}
