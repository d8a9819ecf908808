// The one error root of the project, and the few helpers around it.
// Knows nothing of phases' rules, of QMP or of the wire: those attach what they know to an error.

/** Which of the two hosts something happened on. */
export type Side = "source" | "destination";

/** What a caller must be able to tell apart without reading text; decides the exit code. */
export const ERROR_KINDS = [
  /** The request itself is wrong (options, values): nothing was started. */
  "usage",
  /** A check said no before anything was changed on either host. */
  "refused",
  /** Something failed after the work began; undone unless the error says otherwise. */
  "failed",
  /** Somebody asked to stop (signal, `cancel`); undone. */
  "cancelled",
  /** The peer cannot be reached or the connection was lost. */
  "link",
  /** A time limit that the operator set has passed; undone. */
  "timeout",
  /** The handover was sent and no answer came: nobody may start the guest until it is resolved. */
  "uncertain",
  /** A defect of this program. */
  "internal",
] as const;
export type ErrorKind = (typeof ERROR_KINDS)[number];

export interface AgentErrorOptions {
  kind?: ErrorKind;
  side?: Side;
  phase?: string;
  /** What would be right, or what to do about it: one sentence. */
  hint?: string;
  cause?: unknown;
}

/**
 * Every failure that this program reports. `message` names the action and quotes the value
 * ("Cannot create target disk '/d/a.raw': 20 GiB needed, 3 GiB free"); `code` is stable snake_case
 * for programs; `undoErrors` holds what failed while undoing and never replaces the first error.
 */
export class AgentError extends Error {
  override readonly name = "AgentError";
  readonly code: string;
  readonly kind: ErrorKind;
  readonly hint: string | undefined;
  side: Side | undefined;
  phase: string | undefined;
  readonly undoErrors: AgentError[] = [];

  constructor(code: string, message: string, options: AgentErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.kind = options.kind ?? "failed";
    this.hint = options.hint;
    this.side = options.side;
    this.phase = options.phase;
  }
}

/**
 * The error that an `unknown` thrown value is: itself if it is ours, `system_error` if the system refused
 * something that nobody had thought of, else a defect of this program.
 */
export function toAgentError(error: unknown, fallback: AgentErrorOptions = {}): AgentError {
  if (error instanceof AgentError) {
    error.side ??= fallback.side;
    error.phase ??= fallback.phase;
    return error;
  }
  const message = describeError(error);
  return isSystemError(error)
    ? new AgentError("system_error", message, { kind: "failed", ...fallback, cause: error })
    : new AgentError("internal_error", message, { kind: "internal", ...fallback, cause: error });
}

/** A call of the system's failed: no space, no permission, no such file, ... (errno(3)). */
function isSystemError(error: unknown): boolean {
  return error instanceof Error && /^E[A-Z0-9]+$/.test(String((error as { code?: unknown }).code));
}

/** One line for any thrown value. */
export function describeError(error: unknown): string {
  if (error instanceof Error) return error.message || error.name;
  return String(error);
}

/** A value quoted for a message: control characters escaped, cut to `limit` characters. */
export function quote(value: string, limit = 200): string {
  const clean = value.replace(
    /\p{Cc}/gu,
    (c) => "\\x" + c.charCodeAt(0).toString(16).padStart(2, "0"),
  );
  return `'${clean.length > limit ? clean.slice(0, limit) + "…" : clean}'`;
}

/** Text that came from the peer: cleaned, cut and labelled, so that it cannot pass for our own. */
export function quotePeer(value: string, limit = 400): string {
  return `peer says ${quote(value, limit)}`;
}
