// Opens the connection to the receiver; TLS and the proof come after it (secure.ts).

import { abortable, abortReason, Deadline } from "../base/deadline.ts";
import { AgentError, describeError } from "../base/errors.ts";
import { type Address, formatAddress } from "./address.ts";

export interface DialOptions {
  signal: AbortSignal;
  /** How long the connection may take to come about. */
  timeoutMs: number;
}

/**
 * Throws an AgentError of kind "link" (`cannot_connect`) that names the address, or the signal's
 * reason. Safe to cancel: a connection that comes too late is closed.
 */
export async function dial(address: Address, options: DialOptions): Promise<Deno.TcpConn> {
  const { signal, timeoutMs } = options;
  signal.throwIfAborted();
  const target = formatAddress(address);
  using deadline = new Deadline(
    timeoutMs,
    () => cannotConnect(target, `no answer within ${timeoutMs / 1000} seconds`),
    signal,
  );
  // Its own controller: the signal given to Deno.connect must not outlive the attempt.
  const attempt = new AbortController();
  const connecting = Deno.connect({
    hostname: address.host,
    port: address.port,
    signal: attempt.signal,
  });
  try {
    const conn = await abortable(connecting, deadline.signal);
    conn.setNoDelay(true); // control messages are small and waited for
    return conn;
  } catch (error) {
    if (deadline.signal.aborted) {
      // It may have come about in the same turn; a failure is of no interest any more.
      connecting.then((late) => late.close(), () => {});
      attempt.abort();
      throw abortReason(deadline.signal);
    }
    throw cannotConnect(target, describeError(error), error);
  }
}

function cannotConnect(target: string, detail: string, cause?: unknown): AgentError {
  return new AgentError("cannot_connect", `Cannot connect to '${target}': ${detail}`, {
    kind: "link",
    hint: "Check that 'migrate-agent receive' listens there and that no firewall is in between.",
    cause,
  });
}
