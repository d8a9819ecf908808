// A QMP server in memory that answers as a test says, and a client that is connected to it.

import { encodeMessage, type QmpMessage } from "../../../src/qmp/codec.ts";
import { QmpClient, type QmpLink } from "../../../src/qmp/client.ts";

export const never = new AbortController().signal;

const GREETING: QmpMessage = {
  QMP: { version: { qemu: { major: 7, minor: 2, micro: 4 }, package: "Debian" } },
};

type Args = Record<string, unknown>;

/** Answers a command: what it gives is the `return`; a ScriptedError is QEMU's refusal. */
export type Answer = (args: Args, command: string) => unknown;

export class ScriptedError extends Error {
  readonly errorClass: string;
  constructor(desc: string, errorClass = "GenericError") {
    super(desc);
    this.errorClass = errorClass;
  }
}

/** What a script gives for a command that is never answered. */
export const NO_ANSWER = Symbol("no answer");

export class ScriptedLink implements QmpLink {
  readonly readable: ReadableStream<Uint8Array>;
  /** Every command that came in, in order. */
  readonly commands: { command: string; args: Args }[] = [];
  closed = false;
  /** How many bytes one write takes. */
  writeLimit = Infinity;
  readonly #answers: Record<string, Answer>;
  #controller!: ReadableStreamDefaultController<Uint8Array>;
  #text = "";

  constructor(answers: Record<string, Answer> = {}) {
    this.#answers = answers;
    this.readable = new ReadableStream({
      start: (controller) => void (this.#controller = controller),
    });
  }

  /** The commands without the negotiation, as `name` only. */
  get names(): string[] {
    return this.commands.map(({ command }) => command).filter((name) =>
      name !== "qmp_capabilities"
    );
  }

  say(message: QmpMessage): void {
    this.#controller.enqueue(encodeMessage(message));
  }

  greet(): void {
    this.say(GREETING);
  }

  event(event: string, data: Args = {}): void {
    this.say({ event, data, timestamp: { seconds: 100, microseconds: 250_500 } });
  }

  /** QEMU closes the connection. */
  end(): void {
    this.#controller.close();
  }

  async write(data: Uint8Array): Promise<number> {
    await Promise.resolve();
    if (this.closed) throw new Deno.errors.BadResource("closed");
    const taken = data.subarray(0, Math.min(data.length, this.writeLimit));
    this.#text += new TextDecoder().decode(taken);
    const lines = this.#text.split("\n");
    this.#text = lines.pop()!;
    for (const line of lines) this.#receive(JSON.parse(line));
    return taken.length;
  }

  close(): void {
    if (this.closed) throw new Deno.errors.BadResource("closed twice");
    this.closed = true;
    try {
      this.#controller.close();
    } catch (error) {
      if (!(error instanceof TypeError)) throw error; // it had ended already
    }
  }

  #receive({ execute: command = "", arguments: args = {}, id }: QmpMessage): void {
    this.commands.push({ command, args });
    try {
      const answer = this.#answers[command] ?? this.#answers["*"];
      const result = answer?.(args, command);
      if (result !== NO_ANSWER) this.say({ return: result ?? {}, id });
    } catch (error) {
      if (!(error instanceof ScriptedError)) throw error;
      this.say({ error: { class: error.errorClass, desc: error.message }, id });
    }
  }
}

/** A client that has negotiated with `link`. */
export function openScripted(link: ScriptedLink): Promise<QmpClient> {
  link.greet();
  return QmpClient.open("/scripted", link, { signal: never });
}
