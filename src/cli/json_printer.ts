// One JSON object per line on standard output, for programs. docs/output.md specifies the lines.

import type { AgentError } from "../base/errors.ts";
import type { AgentEvent, ErrorAccount } from "../migration/events.ts";
import { accountOfError } from "../migration/account.ts";
import type { Outputs } from "./output.ts";
import type { Printer } from "./printer.ts";

/** The only line of a command that ended before there was a migration to account for. */
export interface ErrorLine extends ErrorAccount {
  type: "error";
  time: string;
}

/** The line for that error at that time. */
export function errorLine(error: AgentError, now: Date): ErrorLine {
  return { type: "error", time: now.toISOString(), ...accountOfError(error) };
}

export class JsonPrinter implements Printer {
  readonly #outputs: Outputs;

  constructor(outputs: Outputs) {
    this.#outputs = outputs;
  }

  event(event: AgentEvent): void {
    this.#outputs.out(JSON.stringify(event) + "\n");
  }

  error(error: AgentError): void {
    this.#outputs.out(JSON.stringify(errorLine(error, new Date())) + "\n");
  }

  close(): Promise<void> {
    return this.#outputs.close();
  }
}
