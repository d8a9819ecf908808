// The events and documents of `--json` as schemas, for whoever reads such lines back (tests, and
// the check of docs/output.md). They are tied to the types in both directions: a field that is added
// to an event and not here, or here and not there, does not compile.

import * as v from "valibot";
import { ERROR_KINDS, type Side } from "../../src/base/errors.ts";
import type {
  DiskAccount,
  ErrorAccount,
  EventBody,
  EventHead,
} from "../../src/migration/events.ts";
import type {
  MigrationAccount,
  ResolvedLine,
  StatusLine,
} from "../../src/cli/journal_documents.ts";
import type { ErrorLine } from "../../src/cli/json_printer.ts";

const side = v.picklist(["source", "destination"]);
const phase = v.picklist([
  "preflight",
  "params",
  "mirror",
  "ram",
  "switchover",
  "handover",
  "end",
]);
const action = v.picklist(["mirror", "shared", "present", "empty"]);
const time = v.pipe(v.string(), v.isoTimestamp());
const bytes = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const ms = v.pipe(v.number(), v.minValue(0));
const rate = v.pipe(v.number(), v.minValue(0));
const whole = v.pipe(v.number(), v.safeInteger(), v.minValue(0));

const state = v.picklist([
  ...["owning", "handover_sent", "handed_over", "kept"] as const,
  ...["preparing", "accepted", "running", "never_ran", "ended"] as const,
]);

const ERROR_FIELDS = {
  code: v.pipe(v.string(), v.regex(/^[a-z0-9]+(_[a-z0-9]+)*$/)),
  kind: v.picklist(ERROR_KINDS),
  message: v.string(),
  hint: v.nullable(v.string()),
  side: v.nullable(side),
  phase: v.nullable(v.string()),
  undo: v.array(v.string()),
};

/** Objects within events. */
export const PART_SCHEMAS = {
  disk_account: v.strictObject({
    name: v.string(),
    action,
    virtual_size_bytes: bytes,
    copied_bytes: bytes,
    flattened: v.boolean(),
    path: v.nullable(v.string()),
  }),
  error_account: v.strictObject(ERROR_FIELDS),
  migration_account: v.strictObject({
    migration_id: v.string(),
    side,
    hypervisor: v.picklist(["qemu", "xen"]),
    guest: v.string(),
    state,
    meaning: v.string(),
    phase: v.nullable(phase),
    agent_pid: v.nullable(whole),
    copied: v.nullable(v.strictObject({
      disk_bytes: whole,
      disk_total_bytes: whole,
      ram_bytes: whole,
    })),
    peer: v.nullable(v.string()),
    qemu_pid: v.nullable(whole),
    qemu_alive: v.boolean(),
    run_state: v.nullable(v.string()),
    qmp: v.nullable(v.string()),
    started_at: time,
    updated_at: time,
    note: v.nullable(v.string()),
    journal: v.string(),
    next: v.nullable(v.string()),
  }),
};

/** What every event carries. */
export const HEAD_FIELDS = {
  time,
  side,
  phase: v.nullable(phase),
  migration_id: v.nullable(v.string()),
};

/** An event's own fields beside the head. */
export const BODY_FIELDS = {
  listening: {
    type: v.literal("listening"),
    host: v.string(),
    port: whole,
    pid: whole,
    log: v.nullable(v.string()),
    ticket: v.nullable(v.string()),
  },
  started: {
    type: v.literal("started"),
    guest: v.string(),
    peer: v.string(),
    copy_storage: v.boolean(),
  },
  phase: { type: v.literal("phase"), title: v.string() },
  step: { type: v.literal("step"), step: whole, text: v.string() },
  disk: {
    type: v.literal("disk"),
    disk: v.string(),
    action,
    virtual_size_bytes: bytes,
    format: v.string(),
    path: v.nullable(v.string()),
    flattened: v.boolean(),
  },
  disk_progress: {
    type: v.literal("disk_progress"),
    disk: v.string(),
    done_bytes: bytes,
    total_bytes: bytes,
    rate_bytes_per_s: rate,
    ready: v.boolean(),
  },
  ram_progress: {
    type: v.literal("ram_progress"),
    transferred_bytes: bytes,
    remaining_bytes: bytes,
    total_bytes: bytes,
    rate_bytes_per_s: rate,
    iteration: whole,
    expected_downtime_ms: v.nullable(ms),
  },
  warning: { type: v.literal("warning"), code: ERROR_FIELDS.code, text: v.string() },
  account: {
    type: v.literal("account"),
    outcome: v.picklist(["completed", "failed", "cancelled", "refused", "uncertain"]),
    guest: v.string(),
    owner: v.nullable(side),
    running: v.boolean(),
    total_ms: ms,
    downtime_ms: v.nullable(ms),
    phases: v.array(v.strictObject({ phase, ms })),
    ram_bytes: bytes,
    disks: v.array(PART_SCHEMAS.disk_account),
    qmp: v.nullable(v.string()),
    pid: v.nullable(whole),
    error: v.nullable(PART_SCHEMAS.error_account),
  },
};

export type EventType = EventBody["type"];

/** The lines that stand alone: the only one of their command, without the head of an event. */
export const SINGLE_FIELDS = {
  error: { type: v.literal("error"), time, ...ERROR_FIELDS },
  status: {
    type: v.literal("status"),
    time,
    state_dir: v.string(),
    migrations: v.array(PART_SCHEMAS.migration_account),
    damaged: v.array(v.strictObject({ path: v.string(), problem: v.string() })),
  },
  resolved: {
    type: v.literal("resolved"),
    time,
    migration_id: v.string(),
    side,
    guest: v.string(),
    state_before: state,
    state,
    meaning: v.string(),
    run_state: v.nullable(v.string()),
    done: v.array(v.string()),
    journal: v.nullable(v.string()),
  },
};

/** The schema of every type of line that `--json` prints. */
export const LINE_SCHEMAS = {
  listening: v.strictObject({ ...HEAD_FIELDS, ...BODY_FIELDS.listening }),
  started: v.strictObject({ ...HEAD_FIELDS, ...BODY_FIELDS.started }),
  phase: v.strictObject({ ...HEAD_FIELDS, ...BODY_FIELDS.phase }),
  step: v.strictObject({ ...HEAD_FIELDS, ...BODY_FIELDS.step }),
  disk: v.strictObject({ ...HEAD_FIELDS, ...BODY_FIELDS.disk }),
  disk_progress: v.strictObject({ ...HEAD_FIELDS, ...BODY_FIELDS.disk_progress }),
  ram_progress: v.strictObject({ ...HEAD_FIELDS, ...BODY_FIELDS.ram_progress }),
  warning: v.strictObject({ ...HEAD_FIELDS, ...BODY_FIELDS.warning }),
  account: v.strictObject({ ...HEAD_FIELDS, ...BODY_FIELDS.account }),
  error: v.strictObject(SINGLE_FIELDS.error),
  status: v.strictObject(SINGLE_FIELDS.status),
  resolved: v.strictObject(SINGLE_FIELDS.resolved),
};

export const LineSchema = v.variant("type", [
  LINE_SCHEMAS.listening,
  LINE_SCHEMAS.started,
  LINE_SCHEMAS.phase,
  LINE_SCHEMAS.step,
  LINE_SCHEMAS.disk,
  LINE_SCHEMAS.disk_progress,
  LINE_SCHEMAS.ram_progress,
  LINE_SCHEMAS.warning,
  LINE_SCHEMAS.account,
  LINE_SCHEMAS.error,
  LINE_SCHEMAS.status,
  LINE_SCHEMAS.resolved,
]);

/** What the types say a line of each type is. */
type Lines =
  & { [T in EventType]: EventHead & Extract<EventBody, { type: T }> }
  & { error: ErrorLine; status: StatusLine; resolved: ResolvedLine };
type Schemas = typeof LINE_SCHEMAS;
type Mutual<A, B> = [A] extends [B] ? [B] extends [A] ? true : false : false;
/** The keys are compared too: an optional field would make no difference otherwise. */
type Same<A, B> = Mutual<keyof A, keyof B> extends true ? Mutual<A, B> : false;
type AllTrue<T extends true> = T;

/** Do not compile when a schema and its type differ, or when one of the two is missing. */
export type SchemasFitTypes = AllTrue<
  | {
    [T in keyof Lines]: T extends keyof Schemas ? Same<v.InferOutput<Schemas[T]>, Lines[T]> : false;
  }[
    keyof Lines
  ]
  | Same<keyof Schemas, keyof Lines>
  | Same<v.InferOutput<typeof LineSchema>["type"], keyof Lines>
  | Same<v.InferOutput<(typeof PART_SCHEMAS)["disk_account"]>, DiskAccount>
  | Same<v.InferOutput<(typeof PART_SCHEMAS)["error_account"]>, ErrorAccount>
  | Same<v.InferOutput<(typeof PART_SCHEMAS)["migration_account"]>, MigrationAccount>
  | Same<v.InferOutput<typeof side>, Side>
>;
