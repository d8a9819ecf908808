// Asks the agent that works on a migration of this host, through its local socket.

import { Deadline } from "../base/deadline.ts";
import { AgentError, describeError, quote, type Side } from "../base/errors.ts";
import { errorFromBody } from "./error_body.ts";
import { closeQuietly, readLine, writeLine } from "./local_line.ts";
import { badLocalMessage, type LocalRequest, parseAnswer } from "./local_messages.ts";

/** How long an agent may take that is busy with the guest. */
const ANSWER_MS = 30_000;

/**
 * What the agent answers to `request`. Cancelling it leaves open whether the agent did it.
 * @throws AgentError `agent_unreachable` (kind link), `agent_silent` (kind timeout), what the agent
 * answered instead, or the signal's reason
 */
export async function askAgent(
  path: string,
  options: { request: LocalRequest; side: Side; signal: AbortSignal; timeoutMs?: number },
): Promise<Record<string, unknown>> {
  const { request, side, timeoutMs = ANSWER_MS } = options;
  using deadline = new Deadline(timeoutMs, () => silent(path, timeoutMs), options.signal);
  const conn = await connect(path);
  let line: string | null;
  try {
    await writeLine(conn, { line: JSON.stringify(request), signal: deadline.signal });
    line = await readLine(conn, deadline.signal);
  } catch (error) {
    if (error instanceof AgentError || deadline.signal.aborted) throw error;
    throw unreachable(path, error);
  } finally {
    closeQuietly(conn);
  }
  if (line === null) throw badLocalMessage("the agent ended without an answer");
  const answer = parseAnswer(line);
  if ("error" in answer) throw errorFromBody(answer.error, side);
  return answer.ok;
}

async function connect(path: string): Promise<Deno.UnixConn> {
  try {
    return await Deno.connect({ transport: "unix", path });
  } catch (error) {
    throw unreachable(path, error);
  }
}

function unreachable(path: string, cause: unknown): AgentError {
  return new AgentError(
    "agent_unreachable",
    `Cannot reach the agent at ${quote(path)}: ${describeError(cause)}`,
    { kind: "link", hint: "See whether it lives: migrate-agent status", cause },
  );
}

function silent(path: string, timeoutMs: number): AgentError {
  return new AgentError(
    "agent_silent",
    `The agent at ${quote(path)} did not answer within ${timeoutMs / 1000} s`,
    { kind: "timeout", hint: "It may be stopped: look at its process, and ask again." },
  );
}
