// The documents of `status` and `resolve` as people read them.

import { formatBytes, oneLine } from "./format.ts";
import type { MigrationAccount, ResolvedLine, StatusLine } from "./journal_documents.ts";

/** A block of lines per migration, what to do about it last. */
export function statusText({ state_dir, migrations, damaged }: StatusLine): string {
  const blocks = [
    ...migrations.map(accountLines),
    ...damaged.map(({ path, problem }) => [`Not to be trusted: ${path} ${problem}.`]),
  ];
  if (blocks.length === 0) return oneLine(`No migrations in ${state_dir}.`) + "\n";
  return blocks.map((lines) => lines.map((line) => oneLine(line) + "\n").join("")).join("\n");
}

/** One line that says where the guest is, and one for everything that was done. */
export function resolvedText(document: ResolvedLine): string {
  const { migration_id, side, guest, state, meaning, state_before, run_state, done } = document;
  const from = state === state_before ? "" : ` (was ${state_before})`;
  return [
    `Migration ${migration_id}, ${side}, guest '${guest}': ${state}${from}: ${meaning}.`,
    ...done.map((text) => `  done     ${text}`),
    ...(done.length === 0 ? ["  done     nothing: there was nothing left to do"] : []),
    ...(run_state === null ? [] : [`  guest    ${run_state}`]),
  ].map((line) => oneLine(line) + "\n").join("");
}

function accountLines(account: MigrationAccount): string[] {
  const { migration_id, side, guest, state, meaning, phase, agent_pid, copied } = account;
  const { peer, note, next } = account;
  const rows: [label: string, text: string][] = [
    ["state", `${state}${phase === null ? "" : `, phase ${phase}`}: ${meaning}`],
    ["agent", agent_pid === null ? "none is at work" : `process ${agent_pid} is at work`],
    ...(copied === null ? [] : [["copied", copiedText(copied)] as [string, string]]),
    account.hypervisor === "xen" ? ["domain", domainText(account)] : ["QEMU", qemuText(account)],
    ...(peer === null ? [] : [["peer", peer] as [string, string]]),
    ...(note === null ? [] : [["note", note] as [string, string]]),
    ["since", `${account.started_at}, last change ${account.updated_at}`],
    ["next", next ?? "nothing to do"],
  ];
  return [
    `Migration ${migration_id}, ${side}, guest '${guest}'`,
    ...rows.map(([label, text]) => `  ${label.padEnd(8)} ${text}`),
  ];
}

function copiedText(
  { disk_bytes, disk_total_bytes, ram_bytes }: NonNullable<MigrationAccount["copied"]>,
): string {
  const disks = disk_total_bytes === 0
    ? "no disks"
    : `${formatBytes(disk_bytes)} of ${formatBytes(disk_total_bytes)} of the disks`;
  return `${disks}, ${formatBytes(ram_bytes)} of memory`;
}

function qemuText({ qemu_pid, qemu_alive, run_state, qmp }: MigrationAccount): string {
  if (qemu_pid === null) return "none is known";
  if (!qemu_alive) return `process ${qemu_pid} has ended`;
  const at = qmp === null ? "" : `, QMP ${qmp}`;
  return `process ${qemu_pid}${at}${run_state === null ? "" : `, guest ${run_state}`}`;
}

/** A domain has no process of its own, and is not always there while it moves. */
function domainText({ run_state, qmp }: MigrationAccount): string {
  if (run_state === null) return "is not here";
  return `${run_state}${qmp === null ? "" : `, its device model's QMP ${qmp}`}`;
}
