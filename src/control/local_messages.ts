// What somebody on this host may ask of an agent that works, as schemas: one JSON line each way, then
// the connection ends. The socket lies where only the agent's own user can reach it; what comes through
// it is checked and bounded nevertheless.

import * as v from "valibot";
import { AgentError } from "../base/errors.ts";
import { cleanProse, ErrorSchema } from "./messages.ts";

export const MAX_LINE_BYTES = 256 * 1024;

/** Null leaves a setting as it is. Rates are in bytes a second, 0 means without limit. */
const rate = v.nullable(v.pipe(v.number(), v.safeInteger(), v.minValue(0)));
/** QEMU's own upper limit is 2000 s. */
const downtime = v.nullable(
  v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(2_000_000)),
);

const SettingsSchema = v.strictObject({
  disk_bandwidth: rate,
  ram_bandwidth: rate,
  downtime_limit_ms: downtime,
});

const RequestSchema = v.variant("command", [
  v.strictObject({
    command: v.literal("cancel"),
    reason: v.pipe(v.string(), v.transform((text) => cleanProse(text, 1000))),
  }),
  v.strictObject({ command: v.literal("set"), ...SettingsSchema.entries }),
  v.strictObject({ command: v.literal("status") }),
]);

const AnswerSchema = v.union([
  v.strictObject({ ok: v.record(v.string(), v.unknown()) }),
  v.strictObject({ error: ErrorSchema }),
]);

/** Changes to a migration that runs. */
export type LocalSettings = v.InferOutput<typeof SettingsSchema>;
export type LocalRequest = v.InferOutput<typeof RequestSchema>;
export type LocalAnswer = v.InferOutput<typeof AnswerSchema>;

/** @throws AgentError `bad_local_message` (kind usage) */
export function parseRequest(line: string): LocalRequest {
  return parse(line, { schema: RequestSchema, what: "command" });
}

/** @throws AgentError `bad_local_message` (kind usage) */
export function parseAnswer(line: string): LocalAnswer {
  return parse(line, { schema: AnswerSchema, what: "answer" });
}

function parse<T>(
  line: string,
  { schema, what }: { schema: v.GenericSchema<unknown, T>; what: string },
): T {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    throw badLocalMessage(`this ${what} is not JSON`);
  }
  const result = v.safeParse(schema, value);
  if (result.success) return result.output;
  const where = v.getDotPath(result.issues[0]);
  throw badLocalMessage(`this ${what} is wrong${where === null ? "" : ` in '${where}'`}`);
}

export function badLocalMessage(problem: string): AgentError {
  return new AgentError("bad_local_message", `The agent's control socket: ${problem}`, {
    kind: "usage",
    hint: "Use the same version of migrate-agent as the agent that works.",
  });
}
