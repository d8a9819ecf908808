// Reads a running guest: its machine, its process, its disks, and whether anything forbids moving
// it. Changes nothing.

import { AgentError, quote } from "../base/errors.ts";
import type { BlockInfo } from "../qmp/commands.ts";
import type { QmpClient } from "../qmp/client.ts";
import { listDeviceIds, withoutDevices } from "./command_line/rewrite.ts";
import { describeDisks, type DiskChoice } from "./disks.ts";
import { type QemuFeatures, queryFeatures } from "./features.ts";
import { queryMachine } from "./machine_state.ts";
import type { QemuParams } from "./params.ts";
import { findSocketOwner, type QemuProcess, readProcess } from "./process.ts";

/** States in which a guest can be migrated and continued on either side. */
const MOVABLE_STATES = new Set(["running", "paused", "prelaunch", "suspended"]);
const NO_UUID = "00000000-0000-0000-0000-000000000000";
const REQUIRED_COMMANDS = [
  "blockdev-mirror",
  "block-export-add",
  "migrate-continue",
  "job-dismiss",
];
const REQUIRED_CAPABILITIES = ["events", "return-path", "pause-before-switchover"];

export interface InspectedGuest {
  params: QemuParams;
  features: QemuFeatures;
  process: QemuProcess;
}

/**
 * @param options.qemuPid the process, when the operator knows better than /proc tells
 * @throws AgentError (kind refused) with the reason why this guest cannot be moved
 */
export async function inspectGuest(
  qmp: QmpClient,
  options: { qemuPid: number | null; choice: DiskChoice; signal: AbortSignal },
): Promise<InspectedGuest> {
  const { signal } = options;
  const process = await readProcess(options.qemuPid ?? await findSocketOwner(qmp.path));
  const features = await queryFeatures(qmp, signal);
  requireFeatures(features);
  const [state, name, uuid] = await Promise.all([
    queryMachine(qmp, signal),
    qmp.execute("query-name", {}, { signal }),
    qmp.execute("query-uuid", {}, { signal }),
  ]);
  const { status, blocks, nodes } = state;
  if (!MOVABLE_STATES.has(status.status)) {
    refuse("guest_not_movable", `Cannot migrate a guest in the state ${quote(status.status)}`);
  }
  await refuseBlockers(qmp, signal);
  const disks = describeDisks(blocks, nodes, {
    choice: options.choice,
    resolvePath: process.resolvePath,
  });
  refuseLostImages(blocks, process);
  const { plugged, unplugged } = await compareDevices(qmp, { argv: process.argv, signal });
  const { major, minor, micro } = qmp.version;
  return {
    features,
    process,
    params: {
      hypervisor: "qemu",
      name: name.name ?? (uuid.UUID === NO_UUID ? "guest" : uuid.UUID),
      uuid: uuid.UUID === NO_UUID ? null : uuid.UUID,
      running: status.running,
      machine: state.machine,
      arch: state.arch,
      vcpus: state.vcpus,
      memory_bytes: state.memoryBytes,
      qemu: {
        version: `${major}.${minor}.${micro}`,
        package: qmp.version.package,
        binary: process.binary,
        argv: withoutDevices(process.argv, unplugged),
      },
      hot_plugged: plugged,
      disks,
    },
  };
}

/** Devices that came and went since the start: there and not on the command line, or the opposite. */
async function compareDevices(
  qmp: QmpClient,
  options: { argv: string[]; signal: AbortSignal },
): Promise<{ plugged: string[]; unplugged: ReadonlySet<string> }> {
  const known = listDeviceIds(options.argv);
  const children = await qmp.execute("qom-list", { path: "/machine/peripheral" }, options);
  const there = new Set(
    children.filter(({ type }) => type.startsWith("child<")).map(({ name }) => name),
  );
  return { plugged: [...there.difference(known)], unplugged: known.difference(there) };
}

/**
 * QEMU opens its images again, by name, when it gives them up at the end of a migration; a name that
 * was relative to another folder fails there, with the guest stopped (seen with 7.2, `-daemonize`).
 */
function refuseLostImages(blocks: readonly BlockInfo[], process: QemuProcess): void {
  for (const { inserted } of blocks) {
    if (!inserted || inserted.ro || !process.hasLost(inserted.file)) continue;
    refuse(
      "relative_image_path",
      `QEMU was started with the image ${quote(inserted.file)} and has changed its folder since: ` +
        `it cannot open it again, which every migration needs`,
      "start the guest with absolute image paths",
    );
  }
}

async function refuseBlockers(qmp: QmpClient, signal: AbortSignal): Promise<void> {
  const [migration, jobs] = await Promise.all([
    qmp.execute("query-migrate", {}, { signal }),
    qmp.execute("query-block-jobs", {}, { signal }),
  ]);
  const reasons = migration["blocked-reasons"] ?? [];
  if (reasons.length > 0) {
    refuse("migration_blocked", `QEMU cannot migrate this guest: ${reasons.join("; ")}`);
  }
  const busy = ["setup", "active", "device", "pre-switchover", "wait-unplug", "cancelling"];
  if (migration.status !== undefined && busy.includes(migration.status)) {
    refuse("migration_running", `A migration of this guest is in the state '${migration.status}'`);
  }
  if (jobs.length > 0) {
    refuse(
      "block_jobs_running",
      `Block jobs are running on this guest: ` +
        jobs.map((job) => `${job.type} ${quote(job.device)}`).join(", "),
      "wait for them or end them",
    );
  }
}

function requireFeatures(features: QemuFeatures): void {
  const missing = [
    ...REQUIRED_COMMANDS.filter((name) => !features.commands.has(name)),
    ...REQUIRED_CAPABILITIES.filter((name) => !features.capabilities.has(name)),
  ];
  if (missing.length === 0) return;
  refuse(
    "qemu_too_old",
    `The source QEMU lacks ${missing.join(", ")}`,
    "QEMU 5.2 or newer is needed",
  );
}

function refuse(code: string, message: string, hint?: string): never {
  throw new AgentError(code, message, {
    kind: "refused",
    side: "source",
    ...(hint ? { hint } : {}),
  });
}
