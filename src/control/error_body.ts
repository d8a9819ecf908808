// Errors on their way to the other agent and back. The sentence that the operator sees on one host
// is often the other host's: it is kept, cleaned and cut, with the code, kind, phase and side.
// Specification: docs/protocol.md, section 6.

import { AgentError, type Side } from "../base/errors.ts";
import { cleanProse, type ErrorBody } from "./messages.ts";

/** What the peer is told of `error`. `ownSide` is used where the error does not name a side. */
export function errorToBody(error: AgentError, ownSide: Side): ErrorBody {
  return {
    code: error.code,
    kind: error.kind,
    phase: error.phase ?? null,
    side: error.side ?? ownSide,
    message: cleanProse(error.message, 2000),
    hint: error.hint === undefined ? null : cleanProse(error.hint, 1000),
  };
}

/** The error that the peer told of. Its text has been cleaned and cut by the schema. */
export function errorFromBody(body: ErrorBody, peerSide: Side): AgentError {
  return new AgentError(body.code, body.message || "(no message)", {
    kind: body.kind,
    side: body.side ?? peerSide,
    ...(body.phase === null ? {} : { phase: body.phase }),
    ...(body.hint === null ? {} : { hint: body.hint }),
  });
}
