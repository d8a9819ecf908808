// One event as one line for people, without its time. Shared by the printers for people.

import type { AgentEvent, DiskEvent, RamProgressEvent } from "../migration/events.ts";
import {
  formatBytes,
  formatDuration,
  formatRate,
  oneLine,
  percentOf,
  timeLeftMs,
} from "./format.ts";

/** The line, or null for the account, which is a table (account_text.ts). */
export function eventText(event: AgentEvent): string | null {
  const text = textOf(event);
  return text === null ? null : oneLine(text);
}

/** How far the memory is: what is not waiting to be sent (again). */
export function ramDoneBytes(event: RamProgressEvent): number {
  return Math.max(0, event.total_bytes - event.remaining_bytes);
}

/** "12.3 MiB/s, 4 s left", or what is known of it. */
export function paceText(remainingBytes: number, rateBytesPerS: number): string {
  const left = timeLeftMs(remainingBytes, rateBytesPerS);
  const rate = formatRate(rateBytesPerS);
  if (left === null || left === 0) return rate;
  // It is a guess: no more exact than a second.
  const seconds = Math.ceil(left / 1000);
  return `${rate}, ${seconds < 60 ? `${seconds} s` : formatDuration(left)} left`;
}

function textOf(event: AgentEvent): string | null {
  switch (event.type) {
    case "listening": {
      const host = event.host.includes(":") ? `[${event.host}]` : event.host;
      const ticket = event.ticket === null ? "" : `, ticket (a secret): ${event.ticket}`;
      return `listening on ${host}:${event.port}, process ${event.pid}${ticket}`;
    }
    case "started":
      return `guest '${event.guest}', peer ${event.peer}, ` +
        (event.copy_storage ? "disks are copied" : "disks are shared");
    case "phase":
      return `phase ${event.phase ?? "?"}: ${event.title}`;
    case "step":
      return `step ${event.step} of 7: ${event.text}`;
    case "disk":
      return diskText(event);
    case "disk_progress": {
      const { done_bytes: done, total_bytes: total } = event;
      const amount = `${formatBytes(done)} of ${formatBytes(total)}`;
      return event.ready
        ? `disk ${event.disk}: in sync, ${amount}`
        : `disk ${event.disk}: ${percentOf(done, total)} %, ${amount}, ` +
          paceText(total - done, event.rate_bytes_per_s);
    }
    case "ram_progress": {
      const downtime = event.expected_downtime_ms;
      return `memory: ${percentOf(ramDoneBytes(event), event.total_bytes)} %, pass ` +
        `${event.iteration}, ${formatBytes(event.transferred_bytes)} sent, ` +
        paceText(event.remaining_bytes, event.rate_bytes_per_s) +
        (downtime === null ? "" : `, expected pause ${formatDuration(downtime)}`);
    }
    case "warning":
      return `warning: ${event.text}`;
    case "account":
      return null;
  }
}

function diskText(event: DiskEvent): string {
  const what = {
    mirror: "to be copied",
    shared: "taken to be shared",
    present: "read-only, must be present at the destination",
    empty: "empty drive",
  }[event.action];
  if (event.action === "empty") return `disk ${event.disk}: ${what}`;
  return `disk ${event.disk}: ${what}, ${event.format}, ${formatBytes(event.virtual_size_bytes)}` +
    (event.path === null ? "" : `, ${event.path}`) +
    (event.flattened ? ", backing chain copied flat" : "");
}
