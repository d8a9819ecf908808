// The journal of one side of one migration, in the hands of the process that works on it. Each change
// replaces the whole file and is durable when its promise resolves: what must be written before an
// effect is awaited before it.

import { isDeepStrictEqual } from "node:util";
import { AgentError } from "../base/errors.ts";
import type { Remain } from "../base/remains.ts";
import { refuseClaimed } from "./claims.ts";
import { withFolderLock } from "./folder_lock.ts";
import { journalName, listJournals, removeJournal, writeJournal } from "./journal_file.ts";
import type { JournalChange, JournalRecord } from "./journal_record.ts";

export class Journal {
  readonly path: string;
  readonly #folder: string;
  #record: JournalRecord;
  #removed = false;
  /** The last change that was asked for: they are made one after the other. */
  #last: Promise<void> = Promise.resolve();

  /** From StateFolder, which has written `record` there. */
  constructor(folder: string, record: JournalRecord) {
    this.#folder = folder;
    this.#record = record;
    this.path = `${folder}/${journalName(record.migration_id, record.side)}`;
  }

  /** What was last written. */
  get record(): Readonly<JournalRecord> {
    return this.#record;
  }

  /**
   * Resolves when the change is durable. Cannot be cancelled.
   * @throws AgentError `journal_not_written`: `record` is then unchanged, and so is the file (see
   * `writeJournal` for the one exception)
   */
  update(change: JournalChange): Promise<void> {
    return this.#change(() => change);
  }

  /**
   * Claims more for this migration.
   * @throws AgentError as StateFolder.begin does
   */
  claim(claims: readonly string[]): Promise<void> {
    return this.#enqueue(() =>
      withFolderLock(this.#folder, async () => {
        const entries = await listJournals(this.#folder);
        await refuseClaimed(claims, { by: this.#record, entries });
        await this.#write({ claims: [...new Set([...this.#record.claims, ...claims])] });
      })
    );
  }

  /** Notes what is about to be made or changed: written before the effect, as an undo step is. */
  addRemain(remain: Remain): Promise<void> {
    return this.#change(({ remains }) => ({
      remains: [...remains.filter((other) => !isDeepStrictEqual(other, remain)), remain],
    }));
  }

  /** More is known of it than before. */
  replaceRemain(old: Remain, remain: Remain): Promise<void> {
    return this.#change(({ remains }) => ({
      remains: remains.map((other) => isDeepStrictEqual(other, old) ? remain : other),
    }));
  }

  /** It is undone, or is meant to stay. */
  dropRemain(remain: Remain): Promise<void> {
    return this.#change(({ remains }) => ({
      remains: remains.filter((other) => !isDeepStrictEqual(other, remain)),
    }));
  }

  /** This process works on it no more, though it may live on; the file stays, to be asked. */
  leave(last: JournalChange = {}): Promise<void> {
    return this.update({ ...last, agent: null, control: null });
  }

  /** Ended, and nobody will ask for it: the file goes. */
  remove(): Promise<void> {
    return this.#enqueue(async () => {
      await removeJournal(this.path);
      this.#removed = true;
    });
  }

  #change(make: (record: JournalRecord) => JournalChange): Promise<void> {
    return this.#enqueue(() => this.#write(make(this.#record)));
  }

  async #write(change: JournalChange): Promise<void> {
    const record = { ...this.#record, ...change, updated_at: new Date().toISOString() };
    await writeJournal(this.#folder, record);
    this.#record = record;
  }

  /** After all that was asked for before, whatever became of that. */
  #enqueue(work: () => Promise<void>): Promise<void> {
    const done = this.#last.then(() => {
      if (!this.#removed) return work();
      throw new AgentError("journal_removed", `The journal of ${this.path} was removed before`, {
        kind: "internal",
      });
    });
    this.#last = done.catch(() => {}); // told to whoever asked for it
    return done;
  }
}
