// What a journal holds: all that one side of one migration must know after a crash. Every part of it
// is checked, when it is read and before it is written.

import * as v from "valibot";
import { AgentError, quote } from "../base/errors.ts";
import { ProcessIdentitySchema } from "../base/process_identity.ts";
import { RemainSchema } from "../base/remains.ts";
import { type OwnershipState, type StateFacts, STATES } from "./ownership.ts";
import { type PhaseName, PHASES } from "./phases.ts";

export const JOURNAL_FORMAT = "migrate-agent journal";
export const JOURNAL_VERSION = 1;

/** No state of one side is called like one of the other. */
const FACTS: Readonly<Record<OwnershipState, StateFacts>> = {
  ...STATES.source,
  ...STATES.destination,
};

const text = (max: number) => v.pipe(v.string(), v.maxLength(max));
const path = v.pipe(text(4096), v.startsWith("/"));
const list = <T extends v.GenericSchema>(item: T) => v.pipe(v.array(item), v.maxLength(4096));

const JournalRecordSchema = v.pipe(
  v.strictObject({
    format: v.literal(JOURNAL_FORMAT),
    version: v.literal(JOURNAL_VERSION),
    migration_id: v.pipe(v.string(), v.regex(/^[A-Za-z0-9_-]{1,64}$/)),
    side: v.picklist(["source", "destination"]),
    hypervisor: v.picklist(["qemu", "xen"]),
    guest: text(1024),
    uuid: v.nullable(text(36)),
    /** Who may run the guest, as this side knows it. */
    state: v.picklist(Object.keys(FACTS) as OwnershipState[]),
    phase: v.nullable(v.picklist(PHASES.map((phase): PhaseName => phase.name))),
    /** No disk that the guest writes to is shared by the hosts. */
    copy_storage: v.boolean(),
    /** Whether the guest is meant to run, by whoever owns it. */
    should_run: v.boolean(),
    started_at: v.pipe(v.string(), v.isoTimestamp()),
    updated_at: v.pipe(v.string(), v.isoTimestamp()),
    /** The process that works on it; null when it has let go of it in order. */
    agent: v.nullable(ProcessIdentitySchema),
    agent_version: text(64),
    /** The local control socket of that process. */
    control: v.nullable(path),
    /** Address of the other agent. */
    peer: v.nullable(text(1024)),
    /** The guest's QEMU on this side. */
    guest_process: v.nullable(ProcessIdentitySchema),
    qmp: v.nullable(path),
    /** What no other migration on this host may use meanwhile; made by claims.ts. */
    claims: list(text(4200)),
    /** What was made or changed here and is not undone yet, oldest first. */
    remains: list(RemainSchema),
    /** How the sender reaches the same receiver again (agents/connect.ts); a secret. */
    reach: v.nullable(v.record(v.string(), v.unknown())),
    /** How it ended, or what is known: one sentence. */
    note: v.nullable(text(4096)),
  }),
  v.check((record) => record.state in STATES[record.side], "a state of the other side"),
);

export type JournalRecord = v.InferOutput<typeof JournalRecordSchema>;

/** What a new journal starts from; the rest is filled in. */
export type NewJournal = Omit<JournalRecord, "format" | "version" | "started_at" | "updated_at">;

/** What may change while it lasts. */
export type JournalChange = Partial<Omit<NewJournal, "migration_id" | "side" | "hypervisor">>;

/** What the state of a record means for the guest. */
export function factsOf({ state }: Pick<JournalRecord, "state">): StateFacts {
  return FACTS[state];
}

/** The record that `value` is, or what is wrong with it: the end of the sentence "The journal …". */
export function checkRecord(value: unknown): JournalRecord | { problem: string } {
  const head = v.safeParse(v.object({ format: v.string(), version: v.number() }), value);
  if (!head.success || head.output.format !== JOURNAL_FORMAT) {
    return { problem: "is no journal of migrate-agent" };
  }
  const { version } = head.output;
  if (version > JOURNAL_VERSION) {
    return {
      problem: `has version ${version}, from a newer migrate-agent: ` +
        `this one knows version ${JOURNAL_VERSION}`,
    };
  }
  const result = v.safeParse(JournalRecordSchema, value);
  if (result.success) return result.output;
  // Not the library's sentence: that quotes what was found, and a part of this is secret.
  const [issue] = result.issues;
  const where = v.getDotPath(issue);
  if (where === null) return { problem: `is damaged: ${issue.message}` };
  const right = issue.expected === null ? "" : `, ${issue.expected} expected`;
  return { problem: `is damaged: wrong ${quote(where)}${right}` };
}

/** A record as it stands in its file, for people too. @throws AgentError `bad_journal` (internal) */
export function formatRecord(record: JournalRecord): string {
  const checked = checkRecord(record);
  if (!("problem" in checked)) return JSON.stringify(checked, null, 2) + "\n";
  throw new AgentError(
    "bad_journal",
    `Cannot write the journal of migration ${record.migration_id}: it ${checked.problem}`,
    { kind: "internal", side: record.side },
  );
}
