// A connection as this layer sees it, and reading and writing whole messages on it. The wire has the
// same form of its own (the two layers do not know each other); Deno.TcpConn has it too.

import { abortable } from "../base/deadline.ts";
import { AgentError, describeError } from "../base/errors.ts";

export interface Link {
  /** Bytes put into `p`, at least 1; null after the other side's end. */
  read(p: Uint8Array): Promise<number | null>;
  /** Bytes taken from `p`, at least 1 and maybe not all. */
  write(p: Uint8Array): Promise<number>;
  /** Nothing more will be written. */
  closeWrite(): Promise<void>;
  /** Ends both directions at once; a pending read fails. */
  close(): void;
}

/** The connection ended or broke before the peers knew each other. */
export function linkEnded(detail: string, cause?: unknown): AgentError {
  return new AgentError("link_ended", `The connection to the other agent ended: ${detail}`, {
    kind: "link",
    cause,
  });
}

/**
 * Fills `into` and reads not one byte more. Throws `link_ended`, or the signal's reason. Not safe to
 * cancel: a read may be left behind, so the link is of no use after it.
 */
export async function readExactly(
  link: Link,
  into: Uint8Array,
  signal: AbortSignal,
): Promise<void> {
  let done = 0;
  while (done < into.length) {
    const count = await orEnded(link.read(into.subarray(done)), signal);
    if (count === null) throw linkEnded(`it was closed after ${done} of ${into.length} bytes`);
    done += count;
  }
}

/** Writes all of `bytes`. Throws `link_ended`, or the signal's reason. Not safe to cancel. */
export async function writeExactly(
  link: Link,
  bytes: Uint8Array,
  signal: AbortSignal,
): Promise<void> {
  let done = 0;
  while (done < bytes.length) done += await orEnded(link.write(bytes.subarray(done)), signal);
}

async function orEnded<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  try {
    return await abortable(work, signal);
  } catch (error) {
    if (signal.aborted || error instanceof AgentError) throw error;
    throw linkEnded(describeError(error), error);
  }
}

/** Closing what is closed already (or used up by TLS) is no failure. */
export function closeQuietly(link: { close(): void }): void {
  try {
    link.close();
  } catch (error) {
    if (!(error instanceof Deno.errors.BadResource)) throw error;
  }
}
