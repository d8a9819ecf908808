// `receive`: listens, and gives every connection a migration of its own. With --once it ends with the
// first; with --serve when it is told to.

import { Deadline, delay } from "../src/base/deadline.ts";
import { AgentError, describeError, quote, toAgentError } from "../src/base/errors.ts";
import type { ReceiveOptions } from "../src/cli/receive_command.ts";
import { AdoptHost } from "../src/guest/adopt.ts";
import { QEMU_DATA_FOLDERS } from "../src/guest/command_line/policy.ts";
import { LaunchHost } from "../src/guest/launch.ts";
import { CommandHost } from "../src/guest/launch_command.ts";
import type { DiskPlacement } from "../src/guest/target_disks.ts";
import type { AccountEvent, AgentEvent, EventBody } from "../src/migration/events.ts";
import { Migration } from "../src/migration/migration.ts";
import { StateFolder } from "../src/migration/state_folder.ts";
import { XenHost } from "../src/xen/destination.ts";
import { type Admitted, type Caller, openDoor } from "./door.ts";
import { faultAt } from "./fault.ts";
import type { LandingHosts } from "./landing_host.ts";
import { recallOutcome, resolveLeftBehind } from "./recall.ts";
import { serveConnection } from "./reception.ts";
import type { Receiver } from "./receiver.ts";
import { RefusalLog } from "./refusal_log.ts";

/** Connections at a time: more are closed at once. Real senders are few; port scanners are not. */
const MAX_CONNECTIONS = 64;

const ACCEPT_PAUSE_MS = 1000;
/** For so long after its ticket's end a receiver still tells a late sender no. */
const LATE_MS = 60_000;

export interface ServerOptions {
  emit: (event: AgentEvent) => void;
  /** Ends the server: what has not been handed over is cancelled. */
  cancel: AbortSignal;
  /** A detached server's log, told with the address. */
  log: string | null;
  /** Whether whoever reads the events may see the ticket. */
  showTicket: boolean;
}

/**
 * Runs the receiver to its end. The account is that of the one migration of --once, null for --serve.
 * @throws AgentError when it cannot listen, or the reason of `cancel` when --once was cancelled
 *   before any migration
 */
export async function serve(
  options: ReceiveOptions,
  { emit, cancel, log, showTicket }: ServerOptions,
): Promise<AccountEvent | null> {
  await makeRunFolder(options.runDir);
  const state = await StateFolder.open(options.stateDir);
  const onceId = options.serve ? null : crypto.randomUUID();
  using door = await openDoor(options, { migrationId: onceId, signal: cancel });
  if (door.ticket !== null && !showTicket && options.ticketFile === null) {
    throw new AgentError("ticket_for_nobody", "No sender could learn this receiver's ticket", {
      kind: "usage",
      hint: "give --ticket-file FILE, or --show-ticket to have it on standard output",
    });
  }
  const enough = new AbortController();
  const stop = AbortSignal.any([cancel, enough.signal]);
  const say = (body: EventBody) =>
    emit({
      time: new Date().toISOString(),
      side: "destination",
      phase: null,
      migration_id: onceId,
      ...body,
    });
  if (door.address) {
    say({
      type: "listening",
      ...door.address,
      pid: Deno.pid,
      log,
      ticket: showTicket ? door.ticket : null,
    });
  }

  let account: AccountEvent | null = null;
  let claimed = false;
  const claim = (): string => {
    if (onceId === null) return crypto.randomUUID();
    if (claimed) {
      throw new AgentError("receiver_busy", "This receiver serves another migration already", {
        kind: "refused",
        side: "destination",
        hint: "start one receiver per migration, or one with --serve",
      });
    }
    claimed = true;
    return onceId;
  };
  using expiry = new Deadline(
    door.ticket === null ? Infinity : options.ticketForMs + LATE_MS,
    () =>
      new AgentError("ticket_expired", "No sender came while the ticket was good", {
        kind: "timeout",
        side: "destination",
      }),
  );
  expiry.signal.addEventListener("abort", () => {
    if (!claimed) enough.abort(expiry.signal.reason);
  });
  const connections = new Set<Promise<void>>();
  const refusals = new RefusalLog(say);
  const warn = (code: string, text: string) => say({ type: "warning", code, text });
  for (const line of await resolveLeftBehind(state, cancel)) warn("resolved", line);
  const living = new Map<string, Receiver>();
  const pass = faultAt(options.fault, { say: (text) => warn("fault_point", text) });
  const handle = async (caller: Caller) => {
    let sender: Admitted;
    try {
      sender = await caller.admit(stop);
    } catch (error) {
      if (!stop.aborted) refusals.refused(toAgentError(error));
      return;
    }
    const ended = await serveConnection(sender, {
      claim,
      state,
      living,
      ...makeHosts(options),
      nbd: nbdAddress(options, sender),
      allowPlainNbd: !sender.encrypted || options.insecureNbd,
      peerTimeoutMs: options.peerTimeoutMs,
      makeMigration: () =>
        new Migration({ side: "destination", emit, cancel: stop, ...(pass && { pass }) }),
      recall: (id, signal) => recallOutcome(state, id, signal),
    }, stop);
    if (door.single || (ended && ended.migrationId === onceId)) {
      account = ended?.account ?? null;
      enough.abort(new AgentError("served", "This receiver has served its migration"));
    }
  };

  while (!stop.aborted) {
    try {
      const caller = await door.accept(stop);
      if (connections.size >= MAX_CONNECTIONS) {
        caller.close();
        continue;
      }
      // A defect in one connection's story must not end the others'.
      const handled = handle(caller)
        .catch((error) => refusals.refused(toAgentError(error)))
        .finally(() => connections.delete(handled));
      connections.add(handled);
      if (door.single) break;
    } catch (error) {
      if (stop.aborted) break;
      // Out of descriptors, for example: what runs goes on, and this may pass.
      refusals.refused(toAgentError(error));
      await delay(ACCEPT_PAUSE_MS, stop).catch(() => {}); // told to stop: the loop looks
    }
  }
  await Promise.all(connections);
  if (account === null && !options.serve) {
    throw cancel.aborted || expiry.signal.aborted ? toAgentError(stop.reason) : new AgentError(
      "no_migration",
      "The connection ended before a migration began",
      { kind: "link", side: "destination" },
    );
  }
  return account;
}

async function makeRunFolder(path: string): Promise<void> {
  try {
    await Deno.mkdir(path, { recursive: true, mode: 0o700 });
  } catch (cause) {
    throw new AgentError(
      "run_folder_unusable",
      `Cannot use the run folder ${quote(path)}: ${describeError(cause)}`,
      { kind: "refused", hint: "Name a folder of this user by --run-dir.", cause },
    );
  }
}

/** The NBD server listens where the sender has reached this agent, unless told otherwise. */
function nbdAddress({ nbdHost, nbdPorts: ports }: ReceiveOptions, { reachedHost }: Admitted) {
  const host = nbdHost ?? reachedHost;
  return host === null ? null : { host, ports };
}

function makeHosts(options: ReceiveOptions): LandingHosts {
  const { diskDir, diskPaths, pathMaps, reuseDisks, allowDirs, runDir, bridges } = options;
  if (options.adoptQmp !== null) return { host: new AdoptHost(options.adoptQmp) };
  const placement: DiskPlacement = { diskDir, diskPaths, pathMaps, reuseDisks, allowDirs };
  if (options.launchCommand !== null) {
    return { host: new CommandHost({ command: options.launchCommand, placement }) };
  }
  const folders = [...allowDirs, ...pathMaps.map(({ to }) => to), ...(diskDir ? [diskDir] : [])];
  const host = new LaunchHost({
    binaries: options.qemuBinaries,
    runDir,
    qmpPath: options.qmp,
    placement,
    policy: {
      readFolders: [...QEMU_DATA_FOLDERS, ...folders],
      writeFolders: [runDir, ...folders],
      bridges,
      allowVnc: options.allowVnc,
      overrides: new Map(options.overrides.map(({ key, value }) => [key, value])),
    },
  });
  return { host, xen: new XenHost({ placement, bridges, openDisplays: options.allowVnc }) };
}
