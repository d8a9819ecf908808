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

/** The error line, which stands alone and carries no head. */
export const ERROR_LINE_FIELDS = { type: v.literal("error"), time, ...ERROR_FIELDS };

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
  error: v.strictObject(ERROR_LINE_FIELDS),
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
]);

/** What the types say a line of each type is. */
type Lines =
  & { [T in EventType]: EventHead & Extract<EventBody, { type: T }> }
  & { error: ErrorLine };
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
  | Same<v.InferOutput<typeof side>, Side>
>;
