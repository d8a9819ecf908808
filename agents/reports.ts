// What QEMU says about progress, as events for the printers and figures for the account.

import { AgentError } from "../src/base/errors.ts";
import type { ReplyBody } from "../src/control/messages.ts";
import type { MirrorProgress } from "../src/guest/mirror.ts";
import type { Disk } from "../src/guest/params.ts";
import type { RamProgress } from "../src/guest/ram.ts";
import type { Account } from "../src/migration/account.ts";
import type { Migration } from "../src/migration/migration.ts";

/** The plan, disk by disk, as events and as the beginning of the account. */
export function reportPlan(
  disks: readonly Disk[],
  options: { plan: ReplyBody<"plan">; migration: Migration; account: Account },
): void {
  const { plan, migration, account } = options;
  for (const text of plan.warnings) {
    migration.report({ type: "warning", code: "plan", text });
  }
  for (const disk of disks) {
    const planned = plan.disks.find(({ name }) => name === disk.name);
    const common = { action: disk.action, virtual_size_bytes: disk.virtual_size_bytes };
    const flattened = disk.action === "mirror" && disk.backing.length > 0;
    migration.report({
      type: "disk",
      disk: disk.name,
      ...common,
      format: disk.format,
      path: migration.side === "source" ? disk.path : planned?.path ?? null,
      flattened,
    });
    account.disks.push({
      name: disk.name,
      ...common,
      copied_bytes: 0,
      flattened,
      path: planned?.path ?? null,
    });
    if (planned?.note) {
      migration.report({
        type: "warning",
        code: "disk_note",
        text: `Disk '${disk.name}': ${planned.note}`,
      });
    }
  }
}

/** Both sides say it, so that nobody learns of it too late. */
export function warnIfInsecure(migration: Migration, encrypted: boolean): void {
  if (encrypted) return;
  migration.report({
    type: "warning",
    code: "insecure",
    text: "INSECURE: the guest's memory and disks travel unencrypted, and nobody has been proved",
  });
}

/** A receiver of mirror progress. */
export function mirrorReporter(
  options: { migration: Migration; account: Account },
): (progress: MirrorProgress[]) => void {
  const { migration, account } = options;
  const rates = new Map<string, Rate>();
  return (progress) => {
    for (const { disk: { name }, doneBytes, totalBytes, ready } of progress) {
      const rate = rates.get(name) ?? new Rate();
      rates.set(name, rate);
      account.noteCopied(name, doneBytes);
      migration.report({
        type: "disk_progress",
        disk: name,
        done_bytes: doneBytes,
        total_bytes: totalBytes,
        rate_bytes_per_s: rate.add(doneBytes),
        ready,
      });
    }
  };
}

/** A receiver of RAM progress. */
export function ramReporter(
  options: { migration: Migration; account: Account },
): (progress: RamProgress) => void {
  const { migration, account } = options;
  return (progress) => {
    account.ramBytes = progress.transferredBytes;
    migration.report({
      type: "ram_progress",
      transferred_bytes: progress.transferredBytes,
      remaining_bytes: progress.remainingBytes,
      total_bytes: progress.totalBytes,
      rate_bytes_per_s: Math.round(progress.rateBytesPerS),
      iteration: progress.iteration,
      expected_downtime_ms: progress.expectedDowntimeMs,
    });
  };
}

/** Bytes per second over the last few reports. */
class Rate {
  readonly #points: { atMs: number; bytes: number }[] = [];

  add(bytes: number): number {
    const atMs = performance.now();
    this.#points.push({ atMs, bytes });
    const WINDOW = 10;
    if (this.#points.length > WINDOW) this.#points.shift();
    const first = this.#points[0]!;
    const seconds = (atMs - first.atMs) / 1000;
    return seconds > 0 ? Math.max(0, Math.round((bytes - first.bytes) / seconds)) : 0;
  }
}

/** A guest that has ended is the cause of whatever else was told first; `failed` is its own word. */
export function causeOf(error: AgentError, failed: AbortSignal | undefined): AgentError {
  const cause: unknown = failed?.reason;
  if (!(cause instanceof AgentError) || cause === error) return error;
  if (!["source_qemu_ended", "guest_shut_down", "guest_panicked"].includes(cause.code)) {
    return error;
  }
  cause.phase ??= error.phase;
  cause.undoErrors.push(...error.undoErrors);
  return cause;
}
