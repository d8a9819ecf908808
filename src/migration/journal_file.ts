// Journals as files: read only when nobody else can have written them, replaced whole and durably,
// listed with what is wrong with them. Knows nothing of who claims what.

import { AgentError, describeError, quote, type Side } from "../base/errors.ts";
import { removeIfThere } from "../base/files.ts";
import { identifyProcess, readStartTicks } from "../base/process_identity.ts";
import { checkRecord, formatRecord, type JournalRecord } from "./journal_record.ts";

/** A file named like a journal: what it holds, or why that is not to be trusted ("The journal …"). */
export type JournalEntry =
  | { readonly path: string; readonly record: JournalRecord }
  | { readonly path: string; readonly problem: string };

/** Far above what 256 disks need. */
const MAX_JOURNAL_BYTES = 1024 * 1024;
/** Group or others may write. */
const TOO_OPEN = 0o022;
const JOURNAL_NAME = /^([A-Za-z0-9_-]{1,64})\.(source|destination)\.json$/;
/** The new form of a journal before it takes the name; with the process that writes it. */
const NEW_NAME = /^\..+\.json\.(\d+)-(\d+)\.new$/;

/** `<migration_id>.<side>.json` */
export function journalName(id: string, side: Side): string {
  return `${id}.${side}.json`;
}

/** Every journal of the folder, and what looks like one, by name. Never fails for what is in it. */
export async function listJournals(folder: string): Promise<JournalEntry[]> {
  const names: string[] = [];
  for await (const { name } of Deno.readDir(folder)) if (name.endsWith(".json")) names.push(name);
  const entries = await Promise.all(
    names.filter((name) => !name.startsWith(".")).sort().map((name) =>
      readJournal(`${folder}/${name}`)
    ),
  );
  return entries.filter((entry) => entry !== null);
}

/** What stands in the file; null when there is none. */
export async function readJournal(path: string): Promise<JournalEntry | null> {
  try {
    const text = await readOwnFile(path);
    if (text === null) return null;
    const record = checkRecord(parseJson(text));
    if ("problem" in record) return { path, ...record };
    const name = journalName(record.migration_id, record.side);
    if (!path.endsWith(`/${name}`)) throw new Untrusted(`holds what belongs into ${quote(name)}`);
    return { path, record };
  } catch (error) {
    return {
      path,
      problem: error instanceof Untrusted
        ? error.message
        : `cannot be read: ${describeError(error)}`,
    };
  }
}

/** The records of all entries; what is not even named like a journal is left out. @throws as `damaged` */
export function trustAll(entries: readonly JournalEntry[]): JournalRecord[] {
  return entries.flatMap((entry) => {
    if ("record" in entry) return [entry.record];
    if (JOURNAL_NAME.test(entry.path.slice(entry.path.lastIndexOf("/") + 1))) throw damaged(entry);
    return [];
  });
}

/** The refusal of whoever would have to know what a journal says that is not to be trusted. */
export function damaged({ path, problem }: { path: string; problem: string }): AgentError {
  return new AgentError("journal_damaged", `The journal ${quote(path)} ${problem}`, {
    kind: "refused",
    hint: "It is not trusted, so nobody knows what it holds: " +
      "look at its guest on both hosts, then move the file away.",
  });
}

/**
 * Makes `record` what its file says, whole or not at all, and durable (file and folder) when this
 * resolves. What was there is replaced.
 * @throws AgentError `journal_not_written`; the file is then still the old one, except that it may be
 * the new one when the disk failed in the last step
 */
export async function writeJournal(folder: string, record: JournalRecord): Promise<void> {
  const name = journalName(record.migration_id, record.side);
  const text = formatRecord(record);
  const { pid, start_ticks } = await identifyProcess(Deno.pid);
  const temporary = `${folder}/.${name}.${pid}-${start_ticks}.new`;
  try {
    try {
      await writeNew(temporary, text);
      await Deno.rename(temporary, `${folder}/${name}`);
    } catch (error) {
      await removeIfThere(temporary);
      throw error;
    }
    await syncFolder(folder);
  } catch (cause) {
    throw notWritten(`${folder}/${name}`, cause);
  }
}

/** Removes a journal, durably; it may be gone already. @throws AgentError `journal_not_written` */
export async function removeJournal(path: string): Promise<void> {
  try {
    await removeIfThere(path);
    await syncFolder(path.slice(0, path.lastIndexOf("/")));
  } catch (cause) {
    throw notWritten(path, cause);
  }
}

/** Removes what processes left that were killed while they wrote. */
export async function removeLeftovers(folder: string): Promise<void> {
  for await (const { name } of Deno.readDir(folder)) {
    const [, pid, ticks] = NEW_NAME.exec(name) ?? [];
    if (pid === undefined || await readStartTicks(Number(pid)) === Number(ticks)) continue;
    await removeIfThere(`${folder}/${name}`);
  }
}

/** Why a file is not to be trusted. */
class Untrusted extends Error {}

/** The text of a file that only this user can have written; null when there is none. */
async function readOwnFile(path: string): Promise<string | null> {
  try {
    // Before it is opened: to open a pipe would wait for its other end.
    const named = await Deno.lstat(path);
    if (named.isSymlink) throw new Untrusted("is a symbolic link");
    if (!named.isFile) throw new Untrusted("is not a regular file");
    using file = await Deno.open(path);
    const { dev, ino, uid, mode, size } = await file.stat();
    if (dev !== named.dev || ino !== named.ino) throw new Untrusted("was exchanged meanwhile");
    if (uid !== Deno.uid()) throw new Untrusted(`belongs to user ${uid}, not to this user`);
    if (((mode ?? 0) & TOO_OPEN) !== 0) {
      const octal = ((mode ?? 0) & 0o777).toString(8).padStart(4, "0");
      throw new Untrusted(`lets others write to it (mode ${octal})`);
    }
    if (size > MAX_JOURNAL_BYTES) throw new Untrusted(`is larger than ${MAX_JOURNAL_BYTES} bytes`);
    return decodeText(await readAtMost(file, size));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}

async function readAtMost(file: Deno.FsFile, size: number): Promise<Uint8Array> {
  const room = new Uint8Array(size);
  let done = 0;
  while (done < size) {
    const count = await file.read(room.subarray(done));
    if (count === null) break;
    done += count;
  }
  return room.subarray(0, done);
}

function decodeText(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new Untrusted("is damaged: not UTF-8");
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new Untrusted("is damaged: not JSON");
  }
}

async function writeNew(path: string, text: string): Promise<void> {
  // A file of that name could only be this process's own, of a try that failed.
  await removeIfThere(path);
  using file = await Deno.open(path, { write: true, createNew: true, mode: 0o600 });
  const bytes = new TextEncoder().encode(text);
  for (let done = 0; done < bytes.length;) done += await file.write(bytes.subarray(done));
  await file.sync();
}

/** A name is durable once its folder is. */
async function syncFolder(folder: string): Promise<void> {
  using file = await Deno.open(folder);
  await file.sync();
}

function notWritten(path: string, cause: unknown): AgentError {
  return new AgentError(
    "journal_not_written",
    `Cannot write the journal ${quote(path)}: ${describeError(cause)}`,
    { hint: "Make room on that file system, or use another --state-dir.", cause },
  );
}
