// The account of a migration as a short table for people.

import { phaseOf } from "../migration/phases.ts";
import type { AccountEvent, DiskAccount } from "../migration/events.ts";
import { formatBytes, formatDuration, oneLine } from "./format.ts";

const OUTCOMES: Record<AccountEvent["outcome"], string> = {
  completed: "Completed",
  failed: "Failed",
  cancelled: "Cancelled",
  refused: "Refused",
  uncertain: "Uncertain",
};

/** Several lines, the first of which says where the guest is. The error is not part of it. */
export function accountText(account: AccountEvent): string {
  const rows: [label: string, text: string][] = [["total", formatDuration(account.total_ms)]];
  if (account.downtime_ms !== null) rows.push(["pause", formatDuration(account.downtime_ms)]);
  account.phases.forEach(({ phase, ms }, at) => {
    const title = `${phase}: ${phaseOf(phase).title}`;
    rows.push([at === 0 ? "phases" : "", `${formatDuration(ms).padEnd(12)} ${title}`]);
  });
  if (account.ram_bytes > 0) rows.push(["memory", `${formatBytes(account.ram_bytes)} sent`]);
  account.disks.forEach((disk, at) => rows.push([at === 0 ? "disks" : "", diskText(disk)]));
  if (account.qmp !== null) rows.push(["QMP", account.qmp]);
  if (account.pid !== null) rows.push(["process", String(account.pid)]);
  const lines = [
    whereabouts(account),
    ...rows.map(([label, text]) => `  ${label.padEnd(8)} ${text}`),
  ];
  return lines.map((line) => oneLine(line) + "\n").join("");
}

function whereabouts(account: AccountEvent): string {
  const guest = `guest '${account.guest}'`;
  const outcome = OUTCOMES[account.outcome];
  if (account.guest === "") return `${outcome}: nothing was changed.`;
  if (account.owner === null) {
    return `${outcome}: ${guest} is paused, and which host may run it is not known.`;
  }
  const moved = account.outcome === "completed";
  const state = account.running ? (moved ? "runs" : "runs on") : "is paused";
  return `${outcome}: ${guest} ${state} at the ${account.owner}.`;
}

function diskText(disk: DiskAccount): string {
  const size = formatBytes(disk.virtual_size_bytes);
  const done = {
    mirror: `${formatBytes(disk.copied_bytes)} copied, disk of ${size}`,
    shared: `shared, disk of ${size}`,
    present: `read-only, present at the destination`,
    empty: "empty drive",
  }[disk.action];
  const flat = disk.flattened ? ", backing chain copied flat" : "";
  return `${disk.name}: ${done}${flat}${disk.path === null ? "" : ` -> ${disk.path}`}`;
}
