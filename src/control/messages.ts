// Every message that the two agents exchange, as schemas and types: the one place that says what a
// body may hold. Strings, lists and numbers are bounded; fields that are not named here are dropped.
// When which message is sent is the agents' story. Specification: docs/protocol.md, sections 6 to 8.

import * as v from "valibot";
import { AgentError, ERROR_KINDS } from "../base/errors.ts";

/** The versions of the control messages that this program speaks. */
export const PROTOCOL_VERSIONS: readonly number[] = [1];

/** Text without control characters. */
const text = (max: number) => v.pipe(v.string(), v.maxLength(max), v.regex(/^\P{Cc}*$/u));
/** Text for people: whatever could play tricks on a terminal is removed, and it is cut. */
const prose = (max: number) => v.pipe(v.string(), v.transform((value) => cleanProse(value, max)));
const list = <T extends v.GenericSchema>(item: T, max: number) =>
  v.pipe(v.array(item), v.maxLength(max));
const integer = (min: number, max: number) =>
  v.pipe(v.number(), v.integer(), v.minValue(min), v.maxValue(max));

const path = v.pipe(text(4096), v.minLength(1));
const diskName = v.pipe(text(256), v.minLength(1));
const code = v.pipe(v.string(), v.regex(/^[a-z][a-z0-9_]{0,63}$/));
const capability = v.pipe(v.string(), v.regex(/^[A-Za-z0-9_.-]{1,64}$/));
const capabilities = list(capability, 64);
const version = integer(1, 65535);
const migrationId = v.pipe(v.string(), v.regex(/^[A-Za-z0-9_-]{1,64}$/));
/** How long one agent may ask the other to wait for it. */
export const MAX_WAIT_MS = 24 * 3_600_000;
/** One byte tells them apart in a tunnel. */
const MAX_SERVERS = 256;
/** What a receiver knows of a guest that was handed over: `Answer` in src/migration/ownership.ts. */
const OUTCOMES = ["running", "never_ran", "ended", "uncertain"] as const;
const empty = v.object({});

export const ErrorSchema = v.object({
  code,
  kind: v.picklist(ERROR_KINDS),
  phase: v.nullable(v.pipe(v.string(), v.regex(/^[a-z][a-z0-9_]{0,31}$/))),
  side: v.nullable(v.picklist(["source", "destination"])),
  message: prose(2000),
  hint: v.nullable(prose(1000)),
});
/** The QEMU that waits for the guest; null when its host does not tell. */
const qemu = { qmp: v.nullable(path), pid: v.nullable(integer(1, 2 ** 31 - 1)) };

/** What the sender may ask, in the order in which it does, and what the receiver replies. */
export const REQUESTS = {
  hello: {
    body: v.object({
      protocol_versions: v.pipe(list(version, 16), v.minLength(1)),
      agent_version: text(64),
      features: capabilities,
    }),
    reply: v.object({
      protocol_version: version,
      agent_version: text(64),
      migration_id: migrationId,
      features: capabilities,
    }),
  },
  plan: {
    body: v.object({
      copy_storage: v.boolean(),
      params_sha256: v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/)),
    }),
    reply: v.object({
      qemu_version: text(64),
      qemu_binary: v.nullable(path),
      disks: list(
        v.object({
          name: diskName,
          action: v.picklist(["mirror", "shared", "present", "empty"]),
          path: v.nullable(path),
          note: v.nullable(prose(1000)),
        }),
        256,
      ),
      warnings: list(prose(1000), 64),
    }),
  },
  prepare: {
    body: v.object({
      nbd: v.picklist(["direct", "encrypted", "tunnel"]),
      reconnect_ms: integer(0, MAX_WAIT_MS),
      handover_timeout_ms: integer(0, MAX_WAIT_MS),
    }),
    reply: v.object({
      nbd: v.nullable(v.variant("transport", [
        v.object({
          transport: v.literal("direct"),
          host: v.pipe(v.string(), v.regex(/^[^\s\p{Cc}]{1,255}$/u)),
          ports: v.pipe(list(integer(1, 65535), MAX_SERVERS), v.minLength(1)),
          psk_key: v.nullable(v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/))),
        }),
        v.object({ transport: v.literal("tunnel") }),
      ])),
      exports: list(
        v.object({ disk: diskName, export: diskName, server: integer(0, MAX_SERVERS - 1) }),
        256,
      ),
      ...qemu,
    }),
  },
  incoming: { body: empty, reply: empty },
  arrived: { body: empty, reply: empty },
  handover: {
    body: v.object({ run: v.boolean() }),
    reply: v.object({
      running: v.boolean(),
      resumed_at: v.pipe(v.string(), v.maxLength(32), v.isoTimestamp()),
    }),
  },
  finish: { body: empty, reply: empty },
  /** Instead of `hello`: goes on with a migration whose connection was lost. */
  resume: { body: v.object({ migration_id: migrationId }), reply: v.object(qemu) },
  /** Instead of `hello`: what became of a handover that was not answered. */
  ask: {
    body: v.object({ migration_id: migrationId }),
    reply: v.object({ state: v.picklist(OUTCOMES) }),
  },
} as const;

/** What either side may say at any time, without an answer. */
export const NOTIFICATIONS = {
  cancel: v.object({ reason: prose(1000) }),
  failed: ErrorSchema,
  warning: v.object({ code, text: prose(1000) }),
} as const;

export type RequestName = keyof typeof REQUESTS;
export type NotificationName = keyof typeof NOTIFICATIONS;
/** A request's body as its handler sees it, and as its sender gives it. */
export type RequestBody<N extends RequestName> = v.InferOutput<typeof REQUESTS[N]["body"]>;
export type ReplyBody<N extends RequestName> = v.InferOutput<typeof REQUESTS[N]["reply"]>;
export type NotificationBody<N extends NotificationName> = v.InferOutput<typeof NOTIFICATIONS[N]>;
export type ErrorBody = v.InferOutput<typeof ErrorSchema>;

/** The receiver's choice: the highest version that both have; refuses when there is none. */
export function chooseVersion(
  offered: readonly number[],
  ours: readonly number[] = PROTOCOL_VERSIONS,
): number {
  const common = offered.filter((version) => ours.includes(version));
  if (common.length > 0) return Math.max(...common);
  throw new AgentError(
    "no_common_version",
    `The sender speaks protocol version ${offered.join(", ")}, the receiver ${ours.join(", ")}`,
    { kind: "refused", hint: "Use the same version of migrate-agent on both hosts." },
  );
}

/** Text as people may see it: no control or invisible characters, at most `max` characters. */
export function cleanProse(value: string, max: number): string {
  const clean = value.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]+/gu, " ").trim();
  return (clean.length > max ? clean.slice(0, max - 1) + "…" : clean).toWellFormed();
}
