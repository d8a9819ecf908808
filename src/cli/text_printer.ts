// A line per event for people without a terminal (pipes, logs). Progress is thinned out, so that a
// long copy does not fill the log.

import type { AgentError } from "../base/errors.ts";
import type { AgentEvent } from "../migration/events.ts";
import { accountText } from "./account_text.ts";
import { accountOfError } from "../migration/account.ts";
import { errorText } from "./error_text.ts";
import { eventText, ramDoneBytes } from "./event_text.ts";
import { percentOf } from "./format.ts";
import type { Outputs } from "./output.ts";
import type { Printer } from "./printer.ts";

/** A progress line comes no sooner than after so long or so much. */
const PROGRESS_STEP_MS = 10_000;
const PROGRESS_STEP_PERCENT = 10;

interface Shown {
  atMs: number;
  percent: number;
  ready: boolean;
}

export class TextPrinter implements Printer {
  readonly #outputs: Outputs;
  /** The last progress line of each bar. */
  readonly #shown = new Map<string, Shown>();

  constructor(outputs: Outputs) {
    this.#outputs = outputs;
  }

  event(event: AgentEvent): void {
    if (event.type === "account") {
      this.#outputs.out(accountText(event));
      if (event.error) this.#outputs.err(errorText(event.error));
    } else if (this.#isDue(event)) {
      // The id tells the guests of a serving receiver apart; its beginning is enough for that.
      const id = event.migration_id === null ? "" : `[${event.migration_id.slice(0, 8)}] `;
      this.#outputs.out(`${event.time} ${event.side} ${id}${eventText(event)}\n`);
    }
  }

  error(error: AgentError): void {
    this.#outputs.err(errorText(accountOfError(error)));
  }

  close(): Promise<void> {
    return this.#outputs.close();
  }

  #isDue(event: AgentEvent): boolean {
    if (event.type !== "disk_progress" && event.type !== "ram_progress") return true;
    const disk = event.type === "disk_progress";
    const key = JSON.stringify([event.migration_id, disk ? event.disk : null]);
    const now: Shown = {
      atMs: Date.parse(event.time),
      percent: percentOf(disk ? event.done_bytes : ramDoneBytes(event), event.total_bytes),
      ready: disk && event.ready,
    };
    const last = this.#shown.get(key);
    // Memory goes back when the guest writes to it: a step either way counts.
    const due = last === undefined || now.ready !== last.ready ||
      now.atMs - last.atMs >= PROGRESS_STEP_MS ||
      Math.abs(now.percent - last.percent) >= PROGRESS_STEP_PERCENT;
    if (due) this.#shown.set(key, now);
    return due;
  }
}
