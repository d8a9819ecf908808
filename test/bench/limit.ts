// The limit that the program is compared with: the same migration by nothing but QMP commands from one
// process, QEMU to QEMU for the disk and the memory, each command as early as QEMU's rules allow.

import { getAvailablePort } from "@std/net";
import { flushImages } from "../../src/guest/flush.ts";
import { setNoDelay } from "../../src/base/no_delay.ts";
import type { QmpClient } from "../../src/qmp/client.ts";
import type { EventSubscription } from "../../src/qmp/events.ts";
import { run } from "../lib/command.ts";
import type { Scene } from "./scene.ts";

const NODE = "limit-nbd";
const JOB = "limit-mirror";
const UNLIMITED_BYTES_PER_S = 2 ** 40;

/** Moves the guest of `scene`. `opened` is told the destination's monitor. */
export async function moveByQmp(
  scene: Scene,
  { opened, signal }: { opened: (destination: QmpClient) => void; signal: AbortSignal },
): Promise<void> {
  const source = scene.source.monitor;
  const { size } = await Deno.stat(scene.sourceDisk);
  await Deno.writeFile(scene.targetDisk, new Uint8Array(), { createNew: true });
  await Deno.truncate(scene.targetDisk, size);
  const pidFile = scene.site.file("limit-pid");
  const [destination] = await Promise.all([
    scene.openDestination(signal),
    run([
      ...[scene.qemu, "-accel", "tcg", "-display", "none", ...scene.machine(scene.targetDisk)],
      ...["-S", "-incoming", "defer", "-daemonize", "-pidfile", pidFile],
    ], signal),
  ]);
  opened(destination);
  using jobs = source.subscribe("BLOCK_JOB_READY", "BLOCK_JOB_COMPLETED");
  using sent = source.subscribe("MIGRATION");
  using loaded = destination.subscribe("MIGRATION");

  const ramPath = scene.site.file("limit-ram");
  const port = await openDestination(destination, { disk: scene.targetDisk, ramPath, signal });
  await setNoDelay({
    pid: Number(await Deno.readTextFile(pidFile)),
    localPort: port,
    remotePort: null,
  });
  const inOrder = commands(source, signal);
  await Promise.all([
    inOrder("migrate-set-capabilities", {
      capabilities: on("events", "return-path", "pause-before-switchover"),
    }),
    inOrder("migrate-set-parameters", { "max-bandwidth": UNLIMITED_BYTES_PER_S }),
    inOrder("blockdev-add", {
      driver: "nbd",
      "node-name": NODE,
      server: { type: "inet", host: "127.0.0.1", port: String(port) },
      export: "disk",
      discard: "unmap",
      "detect-zeroes": "unmap",
    }),
    inOrder("blockdev-mirror", {
      "job-id": JOB,
      device: "d0",
      target: NODE,
      sync: "full",
      "auto-dismiss": false,
      granularity: 4096,
    }),
  ]);
  await jobs.next(signal, ({ event }) => event === "BLOCK_JOB_READY");

  await flushImages([scene.sourceDisk, scene.targetDisk], signal);
  await source.execute("migrate", { uri: `unix:${ramPath}` }, { signal });
  await status(sent, "pre-switchover", signal);
  await source.execute("block-job-cancel", { device: JOB }, { signal });
  const { data } = await jobs.next(signal, ({ event }) => event === "BLOCK_JOB_COMPLETED");
  if (data.error !== undefined) throw new Error(`The mirror failed: ${data.error}`);
  await Promise.all([
    inOrder("job-dismiss", { id: JOB }),
    inOrder("blockdev-del", { "node-name": NODE }),
    inOrder("migrate-continue", { state: "pre-switchover" }),
    destination.execute("nbd-server-stop", {}, { signal }),
    destination.execute("blockdev-del", { "node-name": "export" }, { signal }),
    status(sent, "completed", signal),
    status(loaded, "completed", signal),
  ]);
  await destination.execute("cont", {}, { signal });
}

async function openDestination(
  qmp: QmpClient,
  options: { disk: string; ramPath: string; signal: AbortSignal },
): Promise<number> {
  const { disk, ramPath, signal } = options;
  const port = getAvailablePort();
  const inOrder = commands(qmp, signal);
  await Promise.all([
    inOrder("migrate-set-capabilities", {
      capabilities: on("events", "return-path", "late-block-activate"),
    }),
    inOrder("blockdev-add", {
      driver: "raw",
      "node-name": "export",
      discard: "unmap",
      file: { driver: "file", filename: disk, discard: "unmap" },
    }),
    inOrder("nbd-server-start", {
      addr: { type: "inet", data: { host: "127.0.0.1", port: String(port) } },
      "max-connections": 0,
    }),
    inOrder("block-export-add", {
      type: "nbd",
      id: "export",
      "node-name": "export",
      name: "disk",
      writable: true,
    }),
    inOrder("migrate-incoming", { uri: `unix:${ramPath}` }),
  ]);
  return port;
}

/** QEMU carries commands out in the order in which they come: none need wait for an answer. */
function commands(qmp: QmpClient, signal: AbortSignal) {
  return (command: string, args: Record<string, unknown>) => qmp.execute(command, args, { signal });
}

function on(...capabilities: string[]): { capability: string; state: boolean }[] {
  return capabilities.map((capability) => ({ capability, state: true }));
}

async function status(
  events: EventSubscription,
  wanted: string,
  signal: AbortSignal,
): Promise<void> {
  const { data } = await events.next(
    signal,
    ({ data }) => [wanted, "failed"].includes(String(data.status)),
  );
  if (data.status !== wanted) throw new Error(`The migration failed instead of '${wanted}'`);
}
