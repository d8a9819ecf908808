// What the mirrors of a migration are called in the source's QEMU, and how their jobs and nodes are
// ended by force: by the agent that started them, or by whoever puts things in order after it.
// Specification: QMP `yank`, `block-job-cancel`, `query-jobs`.

import { type QmpClient, QmpCommandError } from "../qmp/client.ts";

/** The names of the job and of the node of the mirror with that number. */
export function mirrorNames(index: number): { jobId: string; nodeName: string } {
  return { jobId: `migrate-agent-${index}`, nodeName: `migrate-agent-nbd-${index}` };
}

export function isMirrorJob(id: string): boolean {
  return /^migrate-agent-\d+$/.test(id);
}

export function isMirrorNode(name: string): boolean {
  return /^migrate-agent-nbd-\d+$/.test(name);
}

/**
 * Breaks the connections of these nodes: a job that waits for a dead one would hold the guest's
 * writes, and every command that drains them, until TCP gives up. Out of band: when the memory's
 * connection ends first, QEMU's main loop itself may be waiting for that job (seen with 7.2). The jobs
 * then fail. For a QEMU that has `yank`.
 */
export async function cutOffNodes(
  qmp: QmpClient,
  { nodes, signal }: { nodes: readonly string[]; signal: AbortSignal },
): Promise<void> {
  if (nodes.length === 0) return;
  await qmp.execute("yank", {
    instances: nodes.map((name) => ({ type: "block-node", "node-name": name })),
  }, { signal, outOfBand: true });
}

/** The nodes of mirrors that QEMU has. */
export async function findMirrorNodes(qmp: QmpClient, signal: AbortSignal): Promise<string[]> {
  const nodes = await qmp.execute("query-named-block-nodes", { flat: true }, { signal });
  return nodes.flatMap(({ "node-name": name }) =>
    name !== undefined && isMirrorNode(name) ? [name] : []
  );
}

/**
 * Ends every mirror at once, also one whose connection is dead and for which QEMU's main loop waits; the
 * jobs stay to be dismissed.
 */
export async function endMirrors(qmp: QmpClient, signal: AbortSignal): Promise<void> {
  await cutOffNodes(qmp, { nodes: await findConnected(qmp, signal), signal });
  for (const { id } of await qmp.execute("query-jobs", {}, { signal })) {
    if (isMirrorJob(id)) await endJob(qmp, { id, signal });
  }
}

/** The mirrors' nodes that can be cut off, asked out of band; none in a QEMU without `yank`. */
async function findConnected(qmp: QmpClient, signal: AbortSignal): Promise<string[]> {
  try {
    const instances = await qmp.execute("query-yank", {}, { signal, outOfBand: true });
    return instances.flatMap(({ "node-name": name }) =>
      name !== undefined && isMirrorNode(name) ? [name] : []
    );
  } catch (error) {
    if (error instanceof QmpCommandError && error.errorClass === "CommandNotFound") return [];
    throw error;
  }
}

/** Ends a job at once, whatever its state. It stays to be dismissed; false when there is none. */
export async function endJob(
  qmp: QmpClient,
  { id, signal }: { id: string; signal: AbortSignal },
): Promise<boolean> {
  using events = qmp.subscribe("JOB_STATUS_CHANGE");
  const queryStatus = async () => {
    const jobs = await qmp.execute("query-jobs", {}, { signal });
    return jobs.find((job) => job.id === id)?.status;
  };
  const status = await queryStatus();
  if (status === undefined) return false;
  if (status === "concluded") return true;
  try {
    await qmp.execute("block-job-cancel", { device: id, force: true }, { signal });
  } catch (error) {
    // It was cut off, and may have ended by itself since it was looked at.
    if (await queryStatus() !== "concluded") throw error;
    return true;
  }
  await events.next(signal, ({ data }) => data.id === id && data.status === "concluded");
  return true;
}
