// Which of the three printers shows this run: JSON for programs, bars on a terminal, lines without.

import { JsonPrinter } from "./json_printer.ts";
import { QueuedOutputs, type TerminalSize } from "./output.ts";
import type { Printer } from "./printer.ts";
import { TerminalPrinter } from "./terminal_printer.ts";
import { TextPrinter } from "./text_printer.ts";

/** The printer for this process: JSON if asked for, bars if standard error is a terminal. */
export function makePrinter(options: { json: boolean }): Printer {
  const outputs = new QueuedOutputs({ out: Deno.stdout, err: Deno.stderr });
  if (options.json) return new JsonPrinter(outputs);
  if (!Deno.stderr.isTerminal() || Deno.env.get("TERM") === "dumb") return new TextPrinter(outputs);
  return new TerminalPrinter(outputs, { size: readTerminalSize });
}

function readTerminalSize(): TerminalSize {
  try {
    const size = Deno.consoleSize();
    // A terminal that does not know its size says 0.
    return { columns: size.columns || 80, rows: size.rows || 24 };
  } catch {
    return { columns: 80, rows: 24 }; // it went away while we write; the bars' shape matters no more
  }
}
