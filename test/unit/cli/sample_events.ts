// One event of every type, for the tests of the printers. A type that is missing does not compile.

import type { AgentEvent, EventBody } from "../../../src/migration/events.ts";

type Samples = { [T in EventBody["type"]]: Extract<EventBody, { type: T }> };

export const SAMPLES: Samples = {
  listening: { type: "listening", host: "::1", port: 4444, pid: 12, log: null, ticket: null },
  started: { type: "started", guest: "vm1", peer: "[::1]:4444", copy_storage: true },
  phase: { type: "phase", title: "mirroring the disks" },
  step: { type: "step", step: 3, text: "mirrors started" },
  disk: {
    type: "disk",
    disk: "hd0",
    action: "mirror",
    virtual_size_bytes: 1 << 30,
    format: "qcow2",
    path: "/a.qcow2",
    flattened: true,
  },
  disk_progress: {
    type: "disk_progress",
    disk: "hd0",
    done_bytes: 1 << 28,
    total_bytes: 1 << 30,
    rate_bytes_per_s: 1 << 28,
    ready: false,
  },
  ram_progress: {
    type: "ram_progress",
    transferred_bytes: 1 << 27,
    remaining_bytes: 1 << 26,
    total_bytes: 1 << 28,
    rate_bytes_per_s: 1 << 26,
    iteration: 2,
    expected_downtime_ms: 300,
  },
  warning: { type: "warning", code: "slow_disk", text: "slow\n\x1b[31mdisk" },
  account: {
    type: "account",
    outcome: "completed",
    guest: "vm1",
    owner: "destination",
    running: true,
    total_ms: 12_000,
    downtime_ms: 212,
    phases: [{ phase: "mirror", ms: 7000 }, { phase: "ram", ms: 5000 }],
    ram_bytes: 1 << 28,
    disks: [{
      name: "hd0",
      action: "mirror",
      virtual_size_bytes: 1 << 30,
      copied_bytes: 1 << 30,
      flattened: true,
      path: "/b.qcow2",
    }],
    qmp: "/run/q",
    pid: 99,
    error: null,
  },
};

/** That body as the sender reports it, `atMs` after noon. */
export function eventOf(body: EventBody, atMs = 0): AgentEvent {
  return {
    time: new Date(Date.UTC(2025, 2, 1, 12) + atMs).toISOString(),
    side: "source",
    phase: "mirror",
    migration_id: "6f1c2f0e-77",
    ...body,
  };
}
