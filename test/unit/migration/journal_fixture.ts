// Journals for tests: a record to start from, and a state folder that goes with the test.

import type { AgentError } from "../../../src/base/errors.ts";
import { identifyProcess, type ProcessIdentity } from "../../../src/base/process_identity.ts";
import type { JournalRecord, NewJournal } from "../../../src/migration/journal_record.ts";
import { StateFolder } from "../../../src/migration/state_folder.ts";
import { TempDir } from "../../lib/temp.ts";

/** This test's own process. */
export const SELF: ProcessIdentity = await identifyProcess(Deno.pid);
/** A process that lived before the host was last started. */
export const DEAD: ProcessIdentity = { ...SELF, boot_id: "00000000-0000-0000-0000-000000000000" };

export function newJournal(change: Partial<NewJournal> = {}): NewJournal {
  return {
    migration_id: "m1",
    side: "source",
    hypervisor: "qemu",
    guest: "web",
    uuid: null,
    state: change.side === "destination" ? "preparing" : "owning",
    phase: "params",
    copy_storage: true,
    should_run: true,
    agent: SELF,
    agent_version: "1.0.0",
    control: null,
    peer: "192.0.2.1",
    guest_process: null,
    qmp: "/run/web/qmp.sock",
    claims: [],
    remains: [],
    reach: { by: "insecure", to: { host: "192.0.2.2", port: 4444 } },
    note: null,
    ...change,
  };
}

export function record(change: Partial<JournalRecord> = {}): JournalRecord {
  return {
    format: "migrate-agent journal",
    version: 1,
    started_at: "2026-01-02T03:04:05.678Z",
    updated_at: "2026-01-02T03:04:06.789Z",
    ...newJournal(),
    ...change,
  };
}

export class TestFolder implements AsyncDisposable {
  readonly temp: TempDir;
  readonly state: StateFolder;

  private constructor(temp: TempDir, state: StateFolder) {
    this.temp = temp;
    this.state = state;
  }

  static async create(): Promise<TestFolder> {
    const temp = await TempDir.create();
    return new TestFolder(temp, await StateFolder.open(temp.file("state")));
  }

  /** The path of `name` in the state folder. */
  file(name: string): string {
    return `${this.state.path}/${name}`;
  }

  async names(): Promise<string[]> {
    return (await Array.fromAsync(Deno.readDir(this.state.path))).map(({ name }) => name).sort();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.temp[Symbol.asyncDispose]();
  }
}

/** The code of an error, with its hint. */
export function codeAndHint(error: AgentError): string {
  return `${error.kind} ${error.code}: ${error.message} | ${error.hint}`;
}
