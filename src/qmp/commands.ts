// The QMP commands that this project uses, with what it uses of their arguments and answers.
// Specification: QEMU's QMP reference manual (qapi/block-core.json, qapi/migration.json, ...).

export interface ImageInfo {
  filename: string;
  format: string;
  "virtual-size": number;
  "actual-size"?: number;
  "cluster-size"?: number;
  encrypted?: boolean;
  "backing-image"?: ImageInfo;
}

export interface BlockDeviceInfo {
  file: string;
  "node-name"?: string;
  drv: string;
  ro: boolean;
  encrypted?: boolean;
  image: ImageInfo;
}

export interface BlockInfo {
  device: string;
  qdev?: string;
  removable: boolean;
  inserted?: BlockDeviceInfo;
}

export interface BlockJobInfo {
  type: string;
  device: string;
  len: number;
  offset: number;
  speed: number;
  ready: boolean;
  status: string;
  "io-status"?: string;
  error?: string;
}

export interface MigrationInfo {
  status?: string;
  ram?: {
    transferred: number;
    remaining: number;
    total: number;
    mbps: number;
    "dirty-sync-count": number;
  };
  "expected-downtime"?: number;
  downtime?: number;
  "total-time"?: number;
  "error-desc"?: string;
  "blocked-reasons"?: string[];
}

export interface StatusInfo {
  running: boolean;
  status: string;
}

export interface CapabilityStatus {
  capability: string;
  state: boolean;
}

type None = Record<string, never>;

export interface QmpCommands {
  qmp_capabilities: { args: { enable?: string[] }; result: None };
  quit: { args: None; result: None };
  stop: { args: None; result: None };
  cont: { args: None; result: None };
  "query-status": { args: None; result: StatusInfo };
  "query-name": { args: None; result: { name?: string } };
  "query-uuid": { args: None; result: { UUID: string } };
  "query-target": { args: None; result: { arch: string } };
  "query-version": {
    args: None;
    result: { qemu: { major: number; minor: number; micro: number }; package: string };
  };
  "query-cpus-fast": { args: None; result: unknown[] };
  "query-memory-size-summary": {
    args: None;
    result: { "base-memory": number; "plugged-memory"?: number };
  };
  "query-block": { args: None; result: BlockInfo[] };
  "query-named-block-nodes": { args: { flat?: boolean }; result: BlockDeviceInfo[] };
  "query-block-jobs": { args: None; result: BlockJobInfo[] };
  "query-migrate": { args: None; result: MigrationInfo };
  "query-migrate-capabilities": { args: None; result: CapabilityStatus[] };
  "migrate-set-capabilities": { args: { capabilities: CapabilityStatus[] }; result: None };
  "migrate-set-parameters": { args: Record<string, number | string>; result: None };
  "query-migrate-parameters": { args: None; result: Record<string, number | string | boolean> };
  migrate: { args: { uri: string }; result: None };
  "migrate-incoming": { args: { uri: string }; result: None };
  migrate_cancel: { args: None; result: None };
  "migrate-continue": { args: { state: "pre-switchover" }; result: None };
  "qom-get": { args: { path: string; property: string }; result: unknown };
  "qom-list": { args: { path: string }; result: { name: string; type: string }[] };
  "qom-list-properties": { args: { typename: string }; result: unknown[] };
  "object-add": { args: Record<string, unknown>; result: None };
  "object-del": { args: { id: string }; result: None };
  "blockdev-add": { args: Record<string, unknown>; result: None };
  "blockdev-del": { args: { "node-name": string }; result: None };
  "blockdev-mirror": {
    args: {
      "job-id": string;
      device: string;
      target: string;
      sync: "full";
      "auto-dismiss": boolean;
      "auto-finalize"?: boolean;
      "on-target-error"?: "report" | "stop";
      granularity?: number;
      speed?: number;
      "buf-size"?: number;
      "filter-node-name"?: string;
    };
    result: None;
  };
  "block-job-cancel": { args: { device: string; force?: boolean }; result: None };
  "block-job-pause": { args: { device: string }; result: None };
  "block-job-resume": { args: { device: string }; result: None };
  "block-job-set-speed": { args: { device: string; speed: number }; result: None };
  "block-job-change": { args: { id: string; type: "mirror"; "copy-mode": string }; result: None };
  "job-dismiss": { args: { id: string }; result: None };
  "query-jobs": {
    args: None;
    result: { id: string; type: string; status: string; error?: string }[];
  };
  "nbd-server-start": {
    args: { addr: unknown; "tls-creds"?: string; "max-connections"?: number };
    result: None;
  };
  "nbd-server-stop": { args: None; result: None };
  "block-export-add": {
    args: { type: "nbd"; id: string; "node-name": string; name: string; writable: boolean };
    result: None;
  };
  "query-yank": { args: None; result: { type: string; "node-name"?: string }[] };
  yank: { args: { instances: { type: string; "node-name"?: string }[] }; result: None };
  "query-qmp-schema": { args: None; result: unknown };
  "query-commands": { args: None; result: { name: string }[] };
  "human-monitor-command": { args: { "command-line": string }; result: string };
}

/** Arguments of a command: typed for those above, free for others. */
export type QmpArgs<C extends string> = C extends keyof QmpCommands ? QmpCommands[C]["args"]
  : Record<string, unknown>;

/** Answer of a command: typed for those above, unknown for others. */
export type QmpResult<C extends string> = C extends keyof QmpCommands ? QmpCommands[C]["result"]
  : unknown;
