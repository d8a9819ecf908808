// What the journals of both hosts say at any moment of a story, read from their files as anybody else
// would, and whether the two fit together.

import type { Side } from "../../src/base/errors.ts";
import type { JournalRecord } from "../../src/migration/journal_record.ts";
import { isSettled, mayRun, type OwnershipState } from "../../src/migration/ownership.ts";

export class StoryJournals {
  /** By side: each has a state folder of its own, as on two hosts. */
  readonly folders: Record<Side, string>;

  constructor(folder: string) {
    this.folders = { source: `${folder}/source`, destination: `${folder}/destination` };
  }

  /** What is written there now; null when there is no journal. */
  read(side: Side): JournalRecord | null {
    const names = listFolder(this.folders[side]).filter((name) => name.endsWith(".json"));
    if (names.length > 1) throw new Error(`Several journals at the ${side}: ${names.join(", ")}`);
    if (names.length === 0) return null;
    try {
      // A journal is replaced as a whole: what is read is one form of it, never a part.
      return JSON.parse(Deno.readTextFileSync(`${this.folders[side]}/${names[0]}`));
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return null; // removed since it was listed
      throw error;
    }
  }

  stateOf(side: Side): OwnershipState | null {
    return this.read(side)?.state ?? null;
  }

  /** Whether each side's journal lets it run the guest: what must never be. */
  get bothMayRun(): boolean {
    return (["source", "destination"] as const).every((side) => {
      const state = this.stateOf(side);
      return state !== null && mayRun(side, state as never);
    });
  }

  /** What of the folders is neither a journal nor the lock. */
  leftovers(): string[] {
    return Object.values(this.folders).flatMap((folder) =>
      listFolder(folder).filter((name) => !name.endsWith(".json") && name !== ".lock")
    );
  }
}

/** Whether nothing is left to be decided on a side whose migration has ended. */
export function isOver(record: JournalRecord | null): boolean {
  return record === null || isSettled(record.side, record.state as never);
}

/** Names of what is in a folder that may not be there yet. */
export function listFolder(path: string): string[] {
  try {
    return [...Deno.readDirSync(path)].map((entry) => entry.name).sort();
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw error;
  }
}
