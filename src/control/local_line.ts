// One line of text through a local socket, bounded in size and time. Knows nothing of what it says.

import { abortReason } from "../base/deadline.ts";
import { badLocalMessage, MAX_LINE_BYTES } from "./local_messages.ts";

/**
 * The line without its end; null when the peer left before it sent any.
 * Cancelling closes the connection.
 * @throws AgentError `bad_local_message` for a line that is too long, cut off or not UTF-8
 */
export async function readLine(conn: Deno.Conn, signal: AbortSignal): Promise<string | null> {
  const room = new Uint8Array(MAX_LINE_BYTES);
  let size = 0;
  for (;;) {
    const count = await orClose(conn, { signal, work: () => conn.read(room.subarray(size)) });
    if (count === null) {
      if (size === 0) return null;
      throw badLocalMessage("a line was cut off");
    }
    const end = room.subarray(0, size + count).indexOf(0x0a, size);
    size += count;
    if (end >= 0) return decode(room.subarray(0, end));
    if (size === room.length) throw badLocalMessage(`a line has more than ${size} bytes`);
  }
}

/** Cancelling closes the connection. @throws AgentError `bad_local_message` when it is too long */
export async function writeLine(
  conn: Deno.Conn,
  { line, signal }: { line: string; signal: AbortSignal },
): Promise<void> {
  const bytes = new TextEncoder().encode(line + "\n");
  if (bytes.length > MAX_LINE_BYTES) {
    throw badLocalMessage(`a line has more than ${MAX_LINE_BYTES} bytes`);
  }
  for (let done = 0; done < bytes.length;) {
    done += await orClose(conn, { signal, work: () => conn.write(bytes.subarray(done)) });
  }
}

/** Deno's sockets know no signals: closing is what ends a read or write. */
async function orClose<T>(
  conn: Deno.Conn,
  { signal, work }: { signal: AbortSignal; work: () => Promise<T> },
): Promise<T> {
  signal.throwIfAborted();
  const onAbort = () => closeQuietly(conn);
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    return await work();
  } catch (error) {
    throw signal.aborted ? abortReason(signal) : error;
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}

/** Closes a connection that may be closed already. */
export function closeQuietly(conn: { close(): void }): void {
  try {
    conn.close();
  } catch (error) {
    if (!(error instanceof Deno.errors.BadResource)) throw error;
  }
}

function decode(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw badLocalMessage("a line is not UTF-8");
  }
}
