// What an operator does after a fault, as docs/recovery.md says: on the destination first, then on the
// source, the command that `status` names; and with --keep when nobody can be asked any more.

import type { MigrationAccount } from "../../src/cli/journal_documents.ts";
import type { Host, Resolved } from "./host.ts";

/** The exit code of a `resolve` that an operator has to decide. */
const UNCERTAIN = 6;
/** The exit code of a `resolve` of what is no more. */
const REFUSED = 3;

export interface Order {
  /** How many commands it took. */
  commands: number;
  problems: string[];
}

/** Puts both hosts in order. */
export async function putInOrder(
  { source, destination }: { source: Host; destination: Host },
  signal: AbortSignal,
): Promise<Order> {
  const order: Order = { commands: 0, problems: [] };
  for (const account of await destination.status(signal)) {
    // What has only run for a moment there goes on at the source, as it was at its pause.
    if (account.next !== null) {
      await settle(destination, { account, keep: "source", order, signal });
    }
  }
  const there = await destination.status(signal);
  for (const account of await source.status(signal)) {
    if (account.next === null) continue;
    const same = there.find(({ migration_id: id }) => id === account.migration_id);
    const keep = same?.state === "running" ? "destination" : "source";
    await settle(source, { account, keep, order, signal });
  }
  return order;
}

/** Whether `send` and `receive`, run again, would put in order what has to be. */
export async function isLeftToTheNext(
  { source, destination }: { source: Host; destination: Host },
  signal: AbortSignal,
): Promise<boolean> {
  const all = [...await source.status(signal), ...await destination.status(signal)];
  const open = all.filter(({ next }) => next !== null);
  return open.length > 0 && open.every(({ state }) => state === "owning" || state === "preparing");
}

interface Task {
  account: MigrationAccount;
  /** The operator's word, when it comes to that. */
  keep: string;
  order: Order;
  signal: AbortSignal;
}

async function settle(host: Host, { account, keep, order, signal }: Task): Promise<void> {
  // migrate-agent resolve WORDS...
  const words = account.next!.split(" ").slice(2);
  order.commands++;
  let resolved = await host.resolve(words, signal);
  if (resolved.code === UNCERTAIN) {
    order.commands++;
    resolved = await host.resolve([...words, "--keep", keep], signal);
  }
  const { code, document, text } = resolved;
  if (document === null) {
    order.problems.push(`resolve ${words.join(" ")}: exit code ${code}: ${text}`);
    return;
  }
  const again = await host.resolve(words, signal);
  if (!saysTheSame(resolved, again)) {
    order.problems.push(`resolve, run again, says: exit code ${again.code}: ${again.text}`);
  }
}

/** A journal that was removed at the end cannot be found again. */
function saysTheSame({ document }: Resolved, again: Resolved): boolean {
  if (document!.journal === null) return again.code === REFUSED;
  const { state, meaning, run_state: runState } = document!;
  const second = again.document;
  return second !== null && second.state_before === state && second.state === state &&
    second.meaning === meaning && second.run_state === runState && second.done.length === 0;
}
