// What a person at a terminal sees: phases as lines, below them one bar per disk and one for the
// memory, at the end the account. Bars go to standard error, the account to standard output, so
// that it can be kept in a file. The cursor is given back at the end of the bars.

// @ts-types="./cli_progress.d.ts"
import { type BarState, type BarStream, MultiBar, type SingleBar } from "cli-progress";
import type { AgentError } from "../base/errors.ts";
import type {
  AccountEvent,
  AgentEvent,
  DiskProgressEvent,
  RamProgressEvent,
} from "../migration/events.ts";
import { accountText } from "./account_text.ts";
import { accountOfError } from "../migration/account.ts";
import { errorText } from "./error_text.ts";
import { eventText, paceText, ramDoneBytes } from "./event_text.ts";
import { oneLine, percentOf, shorten } from "./format.ts";
import type { Outputs, TerminalSize } from "./output.ts";
import type { Printer } from "./printer.ts";

/** Phases in which nothing is copied any more: the bars are left behind as they are. */
const PHASES_AFTER_BARS: readonly string[] = ["switchover", "handover", "end"];
/** Rows kept free of disks' bars: the memory's bar, a line of log, the prompt. */
const OTHER_ROWS = 3;
const CLEAR_TO_LINE_END = "\x1b[K";

interface BarPayload {
  label: string;
  pace: string;
}

export class TerminalPrinter implements Printer {
  readonly #outputs: Outputs;
  readonly #size: () => TerminalSize;
  #bars: MultiBar<BarPayload> | null = null;
  readonly #barByKey = new Map<string, SingleBar<BarPayload>>();

  /** `size` is that of the terminal at standard error, asked again for every line. */
  constructor(outputs: Outputs, options: { size: () => TerminalSize }) {
    this.#outputs = outputs;
    this.#size = options.size;
  }

  event(event: AgentEvent): void {
    switch (event.type) {
      case "disk_progress":
        return this.#showDisk(event);
      case "ram_progress":
        return this.#showRam(event);
      case "account":
        return this.#showAccount(event);
      case "phase":
        if (event.phase !== null && PHASES_AFTER_BARS.includes(event.phase)) this.#stopBars();
    }
    this.#line(eventText(event) ?? "");
  }

  error(error: AgentError): void {
    this.#stopBars();
    this.#outputs.err(errorText(accountOfError(error)));
  }

  close(): Promise<void> {
    this.#stopBars();
    return this.#outputs.close();
  }

  /** A line above the bars, or a plain one when there are none. */
  #line(text: string): void {
    if (this.#bars === null) return this.#outputs.err(text + "\n");
    // While there are bars the terminal breaks no lines: what is too long would be cut off.
    const width = Math.max(10, this.#size().columns - 1);
    const pieces = text.match(new RegExp(`.{1,${width}}`, "gu")) ?? [];
    // Without the clearing, the rest of the bar that was in this row would stay behind the text.
    this.#bars.log(pieces.map((piece) => piece + CLEAR_TO_LINE_END + "\n").join(""));
  }

  #showDisk(event: DiskProgressEvent & AgentEvent): void {
    this.#showBar(`${event.migration_id} disk ${event.disk}`, {
      label: `disk ${event.disk}`,
      done: event.done_bytes,
      total: event.total_bytes,
      pace: event.ready
        ? "in sync"
        : paceText(event.total_bytes - event.done_bytes, event.rate_bytes_per_s),
      rowsKept: OTHER_ROWS,
    });
  }

  #showRam(event: RamProgressEvent & AgentEvent): void {
    this.#showBar(`${event.migration_id} memory`, {
      label: "memory",
      done: ramDoneBytes(event),
      total: event.total_bytes,
      pace: paceText(event.remaining_bytes, event.rate_bytes_per_s) +
        (event.iteration > 1 ? `, pass ${event.iteration}` : ""),
      rowsKept: OTHER_ROWS - 1,
    });
  }

  #showBar(
    key: string,
    shown: { label: string; done: number; total: number; pace: string; rowsKept: number },
  ): void {
    const payload = { label: oneLine(shown.label), pace: shown.pace };
    const known = this.#barByKey.get(key);
    if (known) {
      known.setTotal(shown.total);
      known.update(shown.done, payload);
      return;
    }
    // Bars that do not fit would be drawn over one another; what they show is in the account.
    if (this.#barByKey.size >= Math.max(1, this.#size().rows - shown.rowsKept)) return;
    this.#bars ??= this.#startBars();
    this.#barByKey.set(key, this.#bars.create(shown.total, shown.done, payload));
  }

  #startBars(): MultiBar<BarPayload> {
    const outputs = this.#outputs;
    const size = this.#size;
    const stream: BarStream = {
      isTTY: true,
      get columns() {
        return size().columns;
      },
      write(text) {
        outputs.err(text);
        return true;
      },
    };
    return new MultiBar({
      stream,
      format: (_options, state, payload) => barText(state, payload),
      hideCursor: true,
      // Bars move down when a line is written above them and must be drawn again unchanged.
      forceRedraw: true,
      // Signals belong to the agent, which closes this printer when it is done.
      gracefulExit: false,
      fps: 5,
    });
  }

  #stopBars(): void {
    // Lines that wait for the next drawing would otherwise be lost.
    this.#bars?.update();
    this.#bars?.stop();
    this.#bars = null;
    this.#barByKey.clear();
  }

  #showAccount(account: AccountEvent): void {
    this.#stopBars();
    this.#outputs.out(accountText(account));
    if (account.error) this.#outputs.err(errorText(account.error));
  }
}

/**
 * One bar in at most `maxWidth - 1` columns: name, bar, percent, pace. On a narrow terminal the bar
 * goes first, then the pace, then the name is cut.
 */
export function barText(
  state: Pick<BarState<BarPayload>, "maxWidth" | "value" | "total" | "progress">,
  payload: BarPayload,
): string {
  const width = state.maxWidth - 1;
  const percent = `${percentOf(state.value, state.total)} %`.padStart(5);
  const labelWidth = width >= 90 ? 24 : 16;
  const label = shorten(payload.label, labelWidth).padEnd(labelWidth);
  const words = `${label} ${percent}  ${payload.pace}`;
  if (words.length > width) {
    const room = width - percent.length - 1;
    return room < 1 ? percent.trim().slice(0, Math.max(0, width)) : [
      shorten(payload.label, room),
      percent,
    ].join(" ");
  }
  // The pace changes its length: its room is fixed, so that the bar does not dance.
  const barWidth = Math.min(40, width - label.length - percent.length - 40);
  if (barWidth < 5) return words;
  const filled = Math.round(barWidth * state.progress);
  const bar = "█".repeat(filled) + "░".repeat(barWidth - filled);
  return `${label} ${bar} ${percent}  ${payload.pace}`;
}
