// Keeps libxl away from a domain's device model, which has one client at a time, while disks are
// mirrored: libxl makes the images inactive, and a mirror that has something left then aborts the device
// model, and the guest is lost (seen with QEMU 7.2). Not the agent has that connection but the program
// that xl runs for it (agents/xen_pipe.ts): it lives on when the agent is killed, and ends the mirrors
// before it lets go. The two speak over a unix socket: the path of the device model's socket and a line
// end; an empty line when it is held, else the reason why not; an empty line when the mirrors have ended;
// and the end of the connection.
// Specification: docs/xen.md, "The switchover".

import { abortable, delay } from "../base/deadline.ts";
import { AgentError, describeError, quote } from "../base/errors.ts";
import { endMirrors } from "../guest/mirror_traces.ts";
import { QmpClient } from "../qmp/client.ts";
import { writeAll } from "./conversation.ts";

const MAX_LINE_BYTES = 4096;
/** For one try to end the mirrors. */
const END_TIMEOUT_MS = 10_000;
const RETRY_MS = 1000;

/** The agent's side: have the device model's socket at `path` held. `conn` is for that alone. */
export async function takeHold(
  conn: Deno.UnixConn,
  { path, signal }: { path: string; signal: AbortSignal },
): Promise<void> {
  await writeAll(conn, new TextEncoder().encode(`${path}\n`));
  const answer = await abortable(readLine(conn), signal);
  if (answer === "") return;
  throw new AgentError(
    "device_model_busy",
    `Cannot keep libxl away from the device model at ${quote(path)}: ` +
      `${quote(answer ?? "the program that xl runs has ended")}`,
    { side: "source", hint: "is another xl at work on this domain?" },
  );
}

/** The agent's side, when the mirrors have ended; returns when libxl can have the device model. */
export async function releaseHold(conn: Deno.UnixConn, signal: AbortSignal): Promise<void> {
  await writeAll(conn, new TextEncoder().encode("\n"));
  await abortable(waitEnd(conn), signal);
}

/** The other side: until the agent lets go, or is no more. Never throws for what the agent does. */
export async function holdForAgent(conn: Deno.UnixConn): Promise<void> {
  using _ = conn;
  const path = await readLine(conn).catch(() => null); // the agent has gone
  if (path === null) return;
  const signal = new AbortController().signal; // nobody is there to cancel it
  let qmp: QmpClient;
  try {
    qmp = await QmpClient.connect(path, { signal });
  } catch (error) {
    return await say(conn, describeError(error));
  }
  await say(conn, "");
  // An agent that has not said so may have left mirrors behind.
  let released = false;
  const word = readLine(conn).catch(() => null); // the agent has gone
  const heard = word.then((line) => released = line !== null);
  await abortable(heard, qmp.ended).catch(() => {}); // looked at in the condition
  while (!released && !qmp.ended.aborted) {
    try {
      await endMirrors(qmp, AbortSignal.timeout(END_TIMEOUT_MS));
      break;
    } catch {
      // The guest is lost when libxl comes in now: it waits, and another can end them, too.
      await delay(RETRY_MS);
    }
  }
  await qmp.close();
}

async function say(conn: Deno.UnixConn, line: string): Promise<void> {
  const words = line.replaceAll("\n", " ").slice(0, MAX_LINE_BYTES / 4);
  await writeAll(conn, new TextEncoder().encode(`${words}\n`)).catch(() => {}); // the agent has gone
}

/** A line without its end; null when the connection ends before it. */
async function readLine(conn: Deno.UnixConn): Promise<string | null> {
  const bytes = new Uint8Array(MAX_LINE_BYTES);
  for (let at = 0; at < bytes.length;) {
    const count = await conn.read(bytes.subarray(at));
    if (count === null) return null;
    at += count;
    if (bytes[at - 1] === "\n".charCodeAt(0)) {
      return new TextDecoder().decode(bytes.subarray(0, at - 1));
    }
  }
  return null;
}

/** Returns when the connection has ended, in whatever way. */
export async function waitEnd(conn: Deno.UnixConn): Promise<void> {
  try {
    while (await conn.read(new Uint8Array(64)) !== null);
  } catch (error) {
    if (!(error instanceof Deno.errors.ConnectionReset)) throw error;
  }
}
