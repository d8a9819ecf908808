// Reads a running Xen HVM domain: what xl says of it, its device model and its disks; refuses with the
// reason what cannot be moved. Changes nothing.

import { AgentError, quote } from "../base/errors.ts";
import type { DiskChoice } from "../guest/disks.ts";
import { type QemuFeatures, queryFeatures } from "../guest/features.ts";
import type { XenParams } from "../guest/params.ts";
import { findSocketOwner } from "../guest/process.ts";
import { QmpClient } from "../qmp/client.ts";
import { describeDomainDisks, type DiskUse, readConfiguredDisks } from "./domain_disks.ts";
import {
  awayName,
  findByUuid,
  isRecord,
  listDomains,
  queryHost,
  queryState,
  readDomain,
} from "./xl.ts";
import { readBackends } from "./xenstore.ts";

/** Xen's own folder for the sockets of device models. */
const SOCKET_FOLDER = "/var/run/xen";
const MAX_DOMAIN_NAME_CHARS = 200;

/** A domain by what tells it from others: its name changes while it moves. */
export interface DomainIdentity {
  domid: number;
  uuid: string;
  name: string;
}

export interface InspectedDomain {
  params: XenParams;
  domain: DomainIdentity;
  /** The device model, on its socket that libxl leaves to others. */
  qmp: QmpClient;
  pid: number;
  features: QemuFeatures;
  uses: DiskUse[];
}

/** The socket that libxl itself uses, one client at a time. */
export function libxlSocket(domid: number): string {
  return `${SOCKET_FOLDER}/qmp-libxl-${domid}`;
}

/** The socket of the device model that is free for others. */
export function freeSocket(domid: number): string {
  return `${SOCKET_FOLDER}/qmp-libxenstat-${domid}`;
}

/**
 * @param name the domain's name or id
 * @throws AgentError (kind refused) with the reason why this domain cannot be moved
 */
export async function inspectDomain(
  name: string,
  options: { choice: DiskChoice; signal: AbortSignal },
): Promise<InspectedDomain> {
  const { choice, signal } = options;
  const { domid, config } = await readDomain(name, signal);
  const { create, build } = refuseUnmovable(config);
  const state = await queryState(domid, signal);
  if (state === null || state.shutdown !== null || state.dying) {
    refuse(
      "guest_not_movable",
      `Cannot migrate domain ${quote(name)}: it has stopped (${state?.shutdown ?? "it is gone"})`,
      "look at it with xl list, and at docs/xen.md when it is suspended",
    );
  }
  if (state.paused) {
    refuse(
      "guest_paused",
      `Cannot migrate domain ${quote(name)}: it is paused, and libxl may be unable to suspend it ` +
        `before it runs again`,
      `let it run first: xl unpause ${domid}`,
    );
  }
  const qmp = await QmpClient.connect(freeSocket(domid), { signal });
  try {
    const [host, features, blocks, nodes, backends, jobs] = await Promise.all([
      queryHost(signal),
      queryFeatures(qmp, signal),
      qmp.execute("query-block", {}, { signal }),
      qmp.execute("query-named-block-nodes", { flat: true }, { signal }),
      readBackends(domid, signal),
      qmp.execute("query-block-jobs", {}, { signal }),
    ]);
    if (jobs.length > 0) {
      const list = jobs.map((job) => `${job.type} ${quote(job.device)}`).join(", ");
      refuse("block_jobs_running", `Block jobs are running on this guest: ${list}`, "end them");
    }
    const configured = readConfiguredDisks(config);
    const { disks, uses } = describeDomainDisks({ configured, blocks, nodes, backends, choice });
    const uuid = String(create.uuid).toLowerCase();
    return {
      qmp,
      features,
      uses,
      pid: await findSocketOwner(freeSocket(domid)),
      domain: { domid, uuid, name: String(create.name) },
      params: {
        hypervisor: "xen",
        name: String(create.name),
        uuid,
        running: true,
        vcpus: Number(build.max_vcpus ?? 1),
        memory_bytes: Number(build.max_memkb) * 1024,
        disks,
        xen: { version: host.get("xen_version") ?? "unknown", config },
      },
    };
  } catch (error) {
    await qmp.close();
    throw error;
  }
}

/**
 * The domain of that name or id, also while xl has given it another name to hand it over.
 * @throws AgentError `unknown_domain` (kind refused)
 */
export async function findDomain(name: string, signal: AbortSignal): Promise<DomainIdentity> {
  const domains = await listDomains(signal);
  const isMeant = (domain: DomainIdentity) =>
    domain.name === name || String(domain.domid) === name || domain.name === awayName(name);
  const found = domains.find(isMeant);
  if (found) return found;
  const there = domains.map((domain) => quote(domain.name)).join(", ") || "none";
  throw new AgentError("unknown_domain", `There is no Xen domain ${quote(name)} here`, {
    kind: "refused",
    side: "source",
    hint: `xl list shows the domains of this host: ${there}`,
  });
}

/** What the domain does, in one word: `running`, `paused`, `suspend`, ...; null when there is none. */
export async function queryRunState(uuid: string, signal: AbortSignal): Promise<string | null> {
  const found = await findByUuid(uuid, signal);
  const state = found && await queryState(found.domid, signal);
  if (!state) return null;
  return state.shutdown ?? (state.paused ? "paused" : "running");
}

/** What no migration of this program can carry over, found in the configuration. */
export function refuseUnmovable(
  config: Record<string, unknown>,
): { create: Record<string, unknown>; build: Record<string, unknown> } {
  const { c_info: create, b_info: build } = config;
  if (!isRecord(create) || !isRecord(build)) {
    refuse("unknown_domain", "xl gives no configuration of this domain");
  }
  const name = quote(String(create.name));
  if (create.type !== "hvm") {
    refuse(
      "not_hvm",
      `Domain ${name} is a guest of type ${quote(String(create.type))}: only HVM guests have a ` +
        `device model whose disks can be mirrored`,
      "move it with xl migrate and shared storage",
    );
  }
  if (String(create.name).length > MAX_DOMAIN_NAME_CHARS) {
    refuse("name_too_long", `The name ${name} is longer than ${MAX_DOMAIN_NAME_CHARS} characters`);
  }
  for (const [key, what] of [["pcidevs", "PCI"], ["usbdevs", "USB"], ["dtdevs", "platform"]]) {
    const list = config[key!];
    if (!Array.isArray(list) || list.length === 0) continue;
    refuse(
      "passthrough",
      `Domain ${name} has ${list.length} ${what} device(s) of this host passed through`,
      "detach them first",
    );
  }
  if (build.device_model_stubdomain === "True") {
    refuse("stubdomain", `The device model of domain ${name} runs in a stub domain`, NO_STUBDOMAIN);
  }
  if (build.dm_restrict === "True") {
    refuse(
      "device_model_restricted",
      `The device model of domain ${name} is restricted (dm_restrict): it can open no connection`,
      "start the domain without dm_restrict",
    );
  }
  if (build.disable_migrate === "True") {
    refuse("migration_blocked", `Domain ${name} is configured never to move (disable_migrate)`);
  }
  return { create, build };
}

const NO_STUBDOMAIN = "start the domain with device_model_stubdomain_override=0";

function refuse(code: string, message: string, hint?: string): never {
  throw new AgentError(code, message, {
    kind: "refused",
    side: "source",
    ...(hint ? { hint } : {}),
  });
}
