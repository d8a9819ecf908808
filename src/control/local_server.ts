// The local socket of an agent that works: `cancel`, `set` and `status` of the same host come in here.
// One request a connection. What the commands do is up to the handlers.

import { abortable, Deadline } from "../base/deadline.ts";
import { AgentError, describeError, quote, type Side, toAgentError } from "../base/errors.ts";
import { removeIfThere } from "../base/files.ts";
import { errorToBody } from "./error_body.ts";
import { closeQuietly, readLine, writeLine } from "./local_line.ts";
import { type LocalAnswer, type LocalSettings, parseRequest } from "./local_messages.ts";

/** What the agent does for each command; what they give is answered, what they throw is told. */
export interface LocalHandlers {
  /** Answered at once: the end is seen by the account, or by `status`. Refuses after the handover. */
  cancel(reason: string, signal: AbortSignal): Promise<Record<string, unknown>>;
  set(settings: LocalSettings, signal: AbortSignal): Promise<Record<string, unknown>>;
  status(signal: AbortSignal): Promise<Record<string, unknown>>;
}

/** How long a line may take on its way, in or out. */
const LINE_MS = 5000;
/** How long a handler may take: a bit less than the client waits. */
const HANDLER_MS = 25_000;
const MAX_CONNECTIONS = 16;

export class LocalServer implements AsyncDisposable {
  readonly path: string;
  readonly #listener: Deno.UnixListener;
  readonly #handlers: LocalHandlers;
  readonly #side: Side;
  readonly #end = new AbortController();
  readonly #open = new Set<Promise<void>>();
  readonly #accepting: Promise<void>;

  private constructor(
    listener: Deno.UnixListener,
    options: { path: string; handlers: LocalHandlers; side: Side },
  ) {
    this.#listener = listener;
    this.path = options.path;
    this.#handlers = options.handlers;
    this.#side = options.side;
    this.#accepting = this.#accept();
  }

  /**
   * Listens at `path` (mode 0600); a socket that a dead agent left there is replaced.
   * @throws AgentError `control_socket_taken` when something answers or is no socket there,
   * `control_socket_failed` when it cannot be made (kind refused)
   */
  static async listen(
    path: string,
    options: { handlers: LocalHandlers; side: Side },
  ): Promise<LocalServer> {
    await removeStale(path);
    // Nothing is awaited in between: the umask is the whole process's.
    const before = Deno.umask(0o177);
    try {
      return new LocalServer(Deno.listen({ transport: "unix", path }), { path, ...options });
    } catch (cause) {
      throw new AgentError(
        "control_socket_failed",
        `Cannot listen at ${quote(path)}: ${describeError(cause)}`,
        { kind: "refused", hint: "Use another or a shorter --state-dir.", cause },
      );
    } finally {
      Deno.umask(before);
    }
  }

  /** Ends the connections; Deno removes a socket with its listener. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#end.signal.aborted) return;
    this.#end.abort(new AgentError("agent_ends", "The agent has ended", { kind: "link" }));
    closeQuietly(this.#listener);
    await this.#accepting;
    await Promise.all(this.#open);
  }

  async #accept(): Promise<void> {
    while (!this.#end.signal.aborted) {
      let conn: Deno.UnixConn;
      try {
        conn = await this.#listener.accept();
      } catch {
        return; // closed, or out of descriptors: the migration goes on without being asked
      }
      if (this.#open.size >= MAX_CONNECTIONS) {
        closeQuietly(conn);
        continue;
      }
      const served: Promise<void> = this.#serve(conn).finally(() => this.#open.delete(served));
      this.#open.add(served);
    }
  }

  async #serve(conn: Deno.UnixConn): Promise<void> {
    try {
      using reading = this.#limit(LINE_MS);
      const answer = await this.#answer(() => readLine(conn, reading.signal));
      if (answer === null) return;
      using writing = this.#limit(LINE_MS);
      await writeLine(conn, { line: JSON.stringify(answer), signal: writing.signal });
    } catch {
      // Whoever asked has left, which they may at any time: there is nobody to tell.
    } finally {
      closeQuietly(conn);
    }
  }

  async #answer(read: () => Promise<string | null>): Promise<LocalAnswer | null> {
    try {
      const line = await read();
      if (line === null) return null;
      using working = this.#limit(HANDLER_MS);
      return { ok: await abortable(this.#handle(line, working.signal), working.signal) };
    } catch (error) {
      return { error: errorToBody(toAgentError(error), this.#side) };
    }
  }

  #handle(line: string, signal: AbortSignal): Promise<Record<string, unknown>> {
    const request = parseRequest(line);
    switch (request.command) {
      case "cancel":
        return this.#handlers.cancel(request.reason, signal);
      case "set": {
        const { command: _, ...settings } = request;
        return this.#handlers.set(settings, signal);
      }
      case "status":
        return this.#handlers.status(signal);
    }
  }

  #limit(ms: number): Deadline {
    return new Deadline(
      ms,
      () => new AgentError("agent_busy", `Not done within ${ms / 1000} s`, { kind: "timeout" }),
      this.#end.signal,
    );
  }
}

/** @throws AgentError `control_socket_taken` */
async function removeStale(path: string): Promise<void> {
  try {
    if (!(await Deno.lstat(path)).isSocket) throw taken(path, "is no socket");
    closeQuietly(await Deno.connect({ transport: "unix", path }));
    throw taken(path, "is another agent's, which answers");
  } catch (error) {
    if (error instanceof Deno.errors.ConnectionRefused) return await removeIfThere(path);
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

function taken(path: string, why: string): AgentError {
  return new AgentError("control_socket_taken", `Cannot listen at ${quote(path)}: it ${why}`, {
    kind: "refused",
    hint: "End that agent, or remove the file.",
  });
}
