// The program: chooses the command, wires printer and signals to it, and ends with the exit code that
// the outcome stands for.

import { AgentError, toAgentError } from "../src/base/errors.ts";
import { parseCommandLine, readSurroundings, wantsJson } from "../src/cli/arguments.ts";
import type { Command } from "../src/cli/command_table.ts";
import { completionScript } from "../src/cli/completions.ts";
import { exitCodeOf } from "../src/cli/exit_codes.ts";
import { helpText, versionText } from "../src/cli/help.ts";
import { resolvedText, statusText } from "../src/cli/journal_text.ts";
import { JsonPrinter } from "../src/cli/json_printer.ts";
import { QueuedOutputs } from "../src/cli/output.ts";
import type { Printer } from "../src/cli/printer.ts";
import { TextPrinter } from "../src/cli/text_printer.ts";
import { makePrinter } from "../src/cli/printer_choice.ts";
import type { ReceiveOptions } from "../src/cli/receive_command.ts";
import type { SendOptions } from "../src/cli/send_command.ts";
import { PROTOCOL_VERSIONS } from "../src/control/messages.ts";
import type { ErrorKind } from "../src/base/errors.ts";
import type { AccountEvent } from "../src/migration/events.ts";
import { Migration } from "../src/migration/migration.ts";
import { cancel, set } from "./adjust.ts";
import { demo } from "./demo.ts";
import { detach, isDetached, openLog } from "./detach.ts";
import { faultAt } from "./fault.ts";
import { askReceiver } from "./recall.ts";
import { resolve } from "./resolve.ts";
import { send } from "./sender.ts";
import { serve } from "./server.ts";
import { status } from "./status.ts";
import { AGENT_VERSION } from "./version.ts";
import { pipeXl } from "./xen_pipe.ts";

/** Runs the program with these arguments; the exit code. Never throws. */
async function main(args: string[]): Promise<number> {
  let command: Command;
  try {
    command = parseCommandLine(args, readSurroundings());
  } catch (error) {
    return await withPrinter(makePrinter({ json: wantsJson(args) }), () => Promise.reject(error));
  }
  switch (command.command) {
    case "send": {
      const options = command;
      return await withPrinter(makePrinter(options), (printer) => runSend(options, printer));
    }
    case "receive":
      return command.detach ? await runDetached(command, args) : await runReceive(command);
    case "status": {
      const options = command;
      return await runOnce(options, async (signal) => {
        const document = await status(options, signal);
        return options.json ? JSON.stringify(document) + "\n" : statusText(document);
      });
    }
    case "resolve": {
      const options = command;
      return await runOnce(options, async (signal) => {
        const document = await resolve(options, { ask: askReceiver, signal });
        return options.json ? JSON.stringify(document) + "\n" : resolvedText(document);
      });
    }
    case "cancel": {
      const options = command;
      return await runOnce({ json: false }, (signal) => cancel(options, signal));
    }
    case "set": {
      const options = command;
      return await runOnce({ json: false }, (signal) => set(options, signal));
    }
    case "demo":
      return await withPrinter(makePrinter({ json: false }), async () => {
        using cancel = new CancelSignal({ hangUp: "cancels" });
        await demo((line) => console.log(line), cancel.signal);
        return null;
      });
    case "completions":
      return await print(completionScript(command.shell));
    case "help":
      return await print(helpText(command.topic));
    case "xen-pipe":
      return await pipeXl(command.socket);
    case "version":
      return await print(versionText({
        program: AGENT_VERSION,
        deno: Deno.version.deno,
        protocol: Math.max(...PROTOCOL_VERSIONS),
      }));
  }
}

async function runSend(options: SendOptions, printer: Printer): Promise<ErrorKind | null> {
  using cancel = new CancelSignal({ hangUp: "cancels" });
  const say = (text: string) => migration.report({ type: "warning", code: "fault_point", text });
  const pass = faultAt(options.fault, { say });
  const migration: Migration = new Migration({
    side: "source",
    emit: (event) => printer.event(event),
    cancel: cancel.signal,
    ...(pass && { pass }),
  });
  const account = await send(options, migration);
  migration.report(account);
  return kindOf(account);
}

async function runReceive(options: ReceiveOptions): Promise<number> {
  // With --stdio standard output is the connection, and standard error ends up in the middle of the
  // sender's bars: only warnings and errors are said.
  const printer = options.stdio
    ? new TextPrinter(new QueuedOutputs({ out: Deno.stderr, err: Deno.stderr }))
    : makePrinter(options);
  return await withPrinter(printer, async () => {
    using cancel = new CancelSignal({ hangUp: "cancels" });
    const account = await serve(options, {
      emit: (event) => {
        if (!options.stdio || event.type === "warning") printer.event(event);
      },
      cancel: cancel.signal,
      log: null,
      showTicket: options.showTicket || (!options.json && Deno.stdout.isTerminal()),
    });
    return account && kindOf(account);
  });
}

/** The first process passes on what the second one says; the second one serves. */
async function runDetached(options: ReceiveOptions, args: string[]): Promise<number> {
  if (!isDetached()) {
    const outcome = await detach(args);
    if ("listening" in outcome) return await print(outcome.listening + "\n");
    await Deno.stderr.write(new TextEncoder().encode(outcome.said));
    return outcome.exitCode;
  }
  let log;
  try {
    log = await openLog(options);
  } catch (error) {
    return await withPrinter(makePrinter({ json: false }), () => Promise.reject(error));
  }
  const { path, file } = log;
  const printer = new JsonPrinter(new QueuedOutputs({ out: file, err: file }));
  return await withPrinter(printer, async () => {
    try {
      using cancel = new CancelSignal({ hangUp: "is ignored" });
      const account = await serve(options, {
        emit: (event) => {
          // The one line for the process that waits for it; nobody reads after that. The ticket is
          // for that reader alone.
          if (event.type === "listening") console.log(JSON.stringify(event));
          printer.event(event.type === "listening" ? { ...event, ticket: null } : event);
        },
        cancel: cancel.signal,
        log: path,
        showTicket: options.showTicket,
      });
      return account && kindOf(account);
    } catch (error) {
      console.error(`migrate-agent: ${toAgentError(error).message}`);
      throw error;
    }
  });
}

/** A command that prints one text at its end, or one error. */
async function runOnce(
  options: { json: boolean },
  work: (signal: AbortSignal) => Promise<string>,
): Promise<number> {
  return await withPrinter(makePrinter(options), async () => {
    using cancel = new CancelSignal({ hangUp: "cancels" });
    await print(await work(cancel.signal));
    return null;
  });
}

/** Runs `work`, shows what it throws, and closes the printer whatever happens. */
async function withPrinter(
  printer: Printer,
  work: (printer: Printer) => Promise<ErrorKind | null>,
): Promise<number> {
  let kind: ErrorKind | null;
  try {
    kind = await work(printer);
  } catch (error) {
    const failure = toAgentError(error);
    printer.error(failure);
    kind = failure.kind;
  }
  await printer.close();
  return exitCodeOf(kind);
}

function kindOf(account: AccountEvent): ErrorKind | null {
  return account.error === null ? null : account.error.kind;
}

async function print(text: string): Promise<number> {
  const outputs = new QueuedOutputs({ out: Deno.stdout, err: Deno.stderr });
  outputs.out(text);
  await outputs.close();
  return exitCodeOf(null);
}

/** SIGINT, SIGTERM and the terminal's hang-up as an AbortSignal. */
class CancelSignal implements Disposable {
  readonly #controller = new AbortController();
  readonly #handlers: [Deno.Signal, () => void][];

  constructor(options: { hangUp: "cancels" | "is ignored" }) {
    const cancel = (name: Deno.Signal) => () =>
      this.#controller.abort(
        new AgentError("cancelled", `Cancelled by ${name}`, { kind: "cancelled" }),
      );
    const ignore = () => {};
    this.#handlers = [
      ["SIGINT", cancel("SIGINT")],
      ["SIGTERM", cancel("SIGTERM")],
      ["SIGHUP", options.hangUp === "cancels" ? cancel("SIGHUP") : ignore],
    ];
    for (const [name, handler] of this.#handlers) Deno.addSignalListener(name, handler);
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  [Symbol.dispose](): void {
    for (const [name, handler] of this.#handlers) Deno.removeSignalListener(name, handler);
  }
}

if (import.meta.main) Deno.exit(await main(Deno.args));
