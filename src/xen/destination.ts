// The destination for a Xen domain: whether it fits here, the disks, their NBD servers, and xl that
// receives it. Specification: docs/xen.md.

import { AgentError, quote } from "../base/errors.ts";
import type { DestinationPlan, RegisterUndo, TargetDisk } from "../guest/destination.ts";
import { makeTargets, refusal } from "../guest/image_files.ts";
import type { XenParams } from "../guest/params.ts";
import { makePrivateFolder, type PrivateFolder } from "../guest/private_folder.ts";
import { type DiskPlacement, planTargets } from "../guest/target_disks.ts";
import { buildConfig, isDomainName, listBridges } from "./domain_config.ts";
import { XenIncoming } from "./incoming.ts";
import { NbdServers } from "./nbd_server.ts";
import { runReceived } from "./recovery.ts";
import { findByUuid, incomingName, listDomains, queryHost } from "./xl.ts";

const MEBI = 2 ** 20;
/** What Xen needs for a domain besides its memory: shadow or p2m, 1 MiB a vcpu and 8 KiB a MiB. */
const BYTES_PER_VCPU = MEBI;
const SHARE_OF_MEMORY = 8 / 1024;

/** What one migration has at the destination. */
export class XenGuest {
  readonly exports: NbdServers;
  readonly incoming: XenIncoming;
  /** For sockets and keys. */
  readonly folder: PrivateFolder;
  /** Aborts when a server of a disk, or xl, has ended too early. */
  readonly ended: AbortSignal;
  readonly #domain: { uuid: string; name: string };

  constructor(
    domain: { uuid: string; name: string },
    parts: { exports: NbdServers; incoming: XenIncoming; folder: PrivateFolder },
  ) {
    this.#domain = domain;
    this.exports = parts.exports;
    this.incoming = parts.incoming;
    this.folder = parts.folder;
    this.ended = AbortSignal.any([this.exports.failed, this.incoming.failed]);
  }

  /** The guest runs here (or waits, paused) from now on. See `XenIncoming.resume`. */
  async resume(run: boolean): Promise<Date> {
    return await this.incoming.resume(run);
  }

  /** Whether there is such a domain here, under any name. */
  async isThere(): Promise<boolean> {
    return await findByUuid(this.#domain.uuid) !== null;
  }

  /**
   * After an error of `resume` that leaves open what xl has done: does what is left to do.
   * @throws AgentError `domain_lost`
   */
  async settle(run: boolean): Promise<void> {
    const found = await runReceived(this.#domain, { run });
    if (found.state === "lost") throw new AgentError("domain_lost", `Lost: ${found.why}`);
  }

  async close(): Promise<void> {
    this.incoming[Symbol.dispose]();
    await this.folder[Symbol.asyncDispose]();
  }
}

export interface XenHostOptions {
  placement: DiskPlacement;
  /** What a domain's networks may be attached to. */
  bridges: readonly string[];
  /** Whether a display (VNC, SPICE) may be reached from other hosts, as it was at the source. */
  openDisplays: boolean;
}

export class XenHost {
  readonly #options: XenHostOptions;

  constructor(options: XenHostOptions) {
    this.#options = options;
  }

  /** Checks everything that can be checked; changes nothing. @throws AgentError (kind refused) */
  async plan(params: XenParams, signal: AbortSignal): Promise<DestinationPlan> {
    uuidOf(params);
    if (!isDomainName(params.name)) {
      throw refusal("bad_domain_name", `${quote(params.name)} is no name for a domain here`);
    }
    const host = await queryHost(signal);
    refuseOtherVersion(params, host);
    await refuseNameClash(params, signal);
    refuseMissingMemory(params, host);
    await refuseBridges(params, this.#options.bridges);
    const targets = await planTargets(params.disks, this.#options.placement);
    this.#makeConfig(params, targets); // refuses before anything is made
    return {
      binary: null,
      qemuVersion: host.get("xen_version") ?? "unknown",
      targets,
      warnings: [],
      place: null,
    };
  }

  /** Makes the disks; nothing of the domain is there before its memory comes. */
  async start(
    params: XenParams,
    options: { plan: DestinationPlan; onEffect: RegisterUndo; signal: AbortSignal },
  ): Promise<XenGuest> {
    const { plan: { targets }, onEffect, signal } = options;
    await makeTargets(targets, { onEffect, signal });
    const folder = await makePrivateFolder({ pid: Deno.pid });
    const { path } = folder;
    await onEffect(`remove ${path}`, () => Promise.resolve(folder[Symbol.asyncDispose]()), {
      kind: "folder",
      path,
    });
    const exports = new NbdServers(targets, folder);
    const domain = { uuid: uuidOf(params), name: params.name };
    const incoming = new XenIncoming({
      ...domain,
      config: this.#makeConfig(params, targets),
      running: params.running,
      imagesFree: () => exports.stopped,
    });
    return new XenGuest(domain, { exports, incoming, folder });
  }

  async close(): Promise<void> {}

  #makeConfig({ name, xen }: XenParams, targets: readonly TargetDisk[]): string {
    return buildConfig(xen.config, { name, targets, openDisplays: this.#options.openDisplays });
  }
}

/** As xl prints it. */
function uuidOf({ uuid }: XenParams): string {
  if (uuid === null) throw refusal("no_uuid", "The domain's parameters name no UUID");
  return uuid.toLowerCase();
}

function refuseOtherVersion(params: XenParams, host: ReadonlyMap<string, string>): void {
  const here = `${host.get("xen_major")}.${host.get("xen_minor")}`;
  const there = /^\d+\.\d+/.exec(params.xen.version)?.[0];
  if (here === there) return;
  throw refusal(
    "xen_version",
    `The source runs Xen ${params.xen.version}, this host ${here}`,
    "both hosts need the same Xen (major and minor version)",
  );
}

async function refuseNameClash(params: XenParams, signal: AbortSignal): Promise<void> {
  const names = [params.name, incomingName(params.name)];
  const clash = (await listDomains(signal))
    .find(({ name, uuid }) => names.includes(name) || uuid === uuidOf(params));
  if (!clash) return;
  throw refusal(
    "guest_exists",
    `Domain ${clash.domid} here is called ${quote(clash.name)} (UUID ${clash.uuid})`,
    clash.name === incomingName(params.name)
      ? `it is left over from another try: xl destroy ${clash.domid}`
      : "end or rename it first",
  );
}

function refuseMissingMemory(params: XenParams, host: ReadonlyMap<string, string>): void {
  const free = Number(host.get("free_memory")) * MEBI;
  const need = params.memory_bytes * (1 + SHARE_OF_MEMORY) + params.vcpus * BYTES_PER_VCPU;
  if (free >= need) return;
  throw refusal(
    "no_memory",
    `The domain needs ${Math.ceil(need / MEBI)} MiB of memory, Xen has ` +
      `${Math.floor(free / MEBI)} MiB free here`,
    "end a domain, or make dom0 smaller with xl mem-set 0",
  );
}

async function refuseBridges({ xen }: XenParams, allowed: readonly string[]): Promise<void> {
  for (const bridge of listBridges(xen.config)) {
    if (!allowed.includes(bridge)) {
      throw refusal(
        "bridge_not_allowed",
        `The domain's network is on the bridge ${
          quote(bridge)
        }, which this receiver does not allow`,
        `give it --allow-bridge ${bridge}`,
      );
    }
    // A name of a network device has no slash, and a bridge has this folder.
    if (!/^[A-Za-z0-9][\w.-]{0,14}$/.test(bridge) || !await isBridge(bridge)) {
      throw refusal(
        "no_bridge",
        `The domain's network is on the bridge ${quote(bridge)}, which is not here`,
        "make the bridge first (ip link add name BRIDGE type bridge), with the same name",
      );
    }
  }
}

async function isBridge(name: string): Promise<boolean> {
  try {
    return (await Deno.stat(`/sys/class/net/${name}/bridge`)).isDirectory;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}
