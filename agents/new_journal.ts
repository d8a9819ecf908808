// The first form of each side's journal: what is known of a migration when it begins.

import { toAgentError } from "../src/base/errors.ts";
import { identifyProcess } from "../src/base/process_identity.ts";
import type { DestinationPlan } from "../src/guest/destination.ts";
import { realPathOrNull } from "../src/guest/image_files.ts";
import type { GuestParams } from "../src/guest/params.ts";
import type { SourceGuest } from "../src/guest/source.ts";
import {
  claimOfDisk,
  claimOfDomain,
  claimOfGuest,
  claimOfQemu,
  claimOfQmp,
} from "../src/migration/claims.ts";
import type { Journal } from "../src/migration/journal.ts";
import type { NewJournal } from "../src/migration/journal_record.ts";
import type { Migration } from "../src/migration/migration.ts";
import type { StateFolder } from "../src/migration/state_folder.ts";
import type { Connection } from "./connect.ts";
import { AGENT_VERSION } from "./version.ts";

/** @throws AgentError `in_use` when somebody else moves this guest */
export async function beginSourceJournal(
  state: StateFolder,
  options: {
    migration: Migration;
    guest: SourceGuest;
    connection: Connection;
  },
): Promise<Journal> {
  const { migration, guest, connection } = options;
  const journal = await state.begin({
    ...await common(migration, guest.params),
    side: "source",
    state: "owning",
    copy_storage: sharesNothing(guest.params),
    should_run: guest.shouldRun,
    peer: connection.peer,
    reach: connection.again,
    guest_process: guest.process,
    qmp: guest.qmp.path,
    claims: guest.params.hypervisor === "xen"
      ? claimsOfGuest(guest.params)
      : [claimOfQemu(guest.process)],
    remains: [guest.remain()],
  });
  migration.journal = journal;
  return journal;
}

/** @throws AgentError `in_use` when one of the claims is another migration's */
export async function beginDestinationJournal(
  state: StateFolder,
  options: {
    migration: Migration;
    params: GuestParams;
    plan: DestinationPlan;
    peer: string;
  },
): Promise<Journal> {
  const { migration, params, plan, peer } = options;
  const journal = await state.begin({
    ...await common(migration, params),
    side: "destination",
    state: "preparing",
    copy_storage: sharesNothing(params),
    should_run: params.running,
    peer,
    reach: null,
    guest_process: null,
    qmp: null,
    claims: [...claimsOfGuest(params), ...await claimsOf(plan)],
    remains: [],
  });
  migration.journal = journal;
  return journal;
}

function sharesNothing({ disks }: GuestParams): boolean {
  return disks.every(({ action }) => action !== "shared");
}

/** A Xen domain is told from others by its UUID, on whatever host. */
function claimsOfGuest({ hypervisor, uuid }: GuestParams): string[] {
  return hypervisor === "xen" && uuid !== null ? [claimOfDomain(uuid)] : [];
}

/** The disks that are written here, and the place where the guest lives. */
async function claimsOf({ targets, place }: DestinationPlan): Promise<string[]> {
  const disks = targets.filter(({ disk, path }) => disk.action === "mirror" && path !== null);
  const paths = await Promise.all(disks.map(({ path }) => realTarget(path!)));
  return [
    ...paths.map(claimOfDisk),
    ...(place === null
      ? []
      : [place.kind === "folder" ? claimOfGuest(place.path) : claimOfQmp(place.path)]),
  ];
}

/** The real path of a file that may not be there yet; its folder is. */
async function realTarget(path: string): Promise<string> {
  const at = path.lastIndexOf("/");
  return realPathOrNull(path) ??
    `${await Deno.realPath(path.slice(0, at) || "/")}/${path.slice(at + 1)}`;
}

async function common(
  migration: Migration,
  params: GuestParams,
): Promise<
  Pick<
    NewJournal,
    | "migration_id"
    | "hypervisor"
    | "guest"
    | "uuid"
    | "phase"
    | "agent"
    | "agent_version"
    | "control"
    | "note"
  >
> {
  return {
    migration_id: migration.id!,
    hypervisor: params.hypervisor,
    guest: params.name,
    uuid: params.uuid,
    phase: migration.phase,
    agent: await identifyProcess(Deno.pid),
    agent_version: AGENT_VERSION,
    control: null,
    note: null,
  };
}

/** A journal that cannot be written any more changes nothing about what is true: it is told, and no more. */
export async function writeQuietly(
  migration: Migration,
  change: () => Promise<void>,
): Promise<void> {
  try {
    await change();
  } catch (error) {
    const { code, message } = toAgentError(error);
    migration.report({ type: "warning", code, text: message });
  }
}
