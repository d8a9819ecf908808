// `receive`: listens, and gives every connection a migration of its own. With --once it ends with the
// first; with --serve when it is told to.

import { AgentError, toAgentError } from "../src/base/errors.ts";
import type { ReceiveOptions } from "../src/cli/receive_command.ts";
import { AdoptHost } from "../src/guest/adopt.ts";
import { QEMU_DATA_FOLDERS } from "../src/guest/command_line/policy.ts";
import type { DestinationHost } from "../src/guest/destination.ts";
import { LaunchHost } from "../src/guest/launch.ts";
import { CommandHost } from "../src/guest/launch_command.ts";
import type { DiskPlacement } from "../src/guest/target_disks.ts";
import { listen } from "../src/link/listen.ts";
import type { AccountEvent, AgentEvent } from "../src/migration/events.ts";
import { Migration } from "../src/migration/migration.ts";
import { receive } from "./receiver.ts";

/** Connections at a time: more are closed at once. Real senders are few; port scanners are not. */
const MAX_CONNECTIONS = 64;

export interface ServerOptions {
  emit: (event: AgentEvent) => void;
  /** Ends the server: what has not been handed over is cancelled. */
  cancel: AbortSignal;
  /** A detached server's log, told with the address. */
  log: string | null;
}

/**
 * Runs the receiver to its end. The account is that of the one migration of --once, null for --serve.
 * @throws AgentError when it cannot listen, or the reason of `cancel` when --once was cancelled
 *   before any migration
 */
export async function serve(
  options: ReceiveOptions,
  { emit, cancel, log }: ServerOptions,
): Promise<AccountEvent | null> {
  await Deno.mkdir(options.runDir, { recursive: true, mode: 0o700 });
  using listener = listen(options.listen);
  const enough = new AbortController();
  const stop = AbortSignal.any([cancel, enough.signal]);
  const onceId = options.serve ? null : crypto.randomUUID();
  emit({
    time: new Date().toISOString(),
    side: "destination",
    phase: null,
    migration_id: onceId,
    type: "listening",
    ...listener.address,
    pid: Deno.pid,
    log,
  });

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
  const connections = new Set<Promise<void>>();
  const handle = async (conn: Deno.TcpConn) => {
    const migration = new Migration({ side: "destination", emit, cancel: stop });
    const ended = await receive(conn, {
      claim,
      host: makeHost(options),
      nbd: { host: nbdHost(options, conn), ports: options.nbdPorts },
      allowPlainNbd: true,
    }, migration);
    if (ended) migration.report(ended);
    if (ended && migration.id === onceId) {
      account = ended;
      enough.abort(new AgentError("served", "This receiver has served its migration"));
    }
  };

  while (!stop.aborted) {
    try {
      const conn = await listener.accept(stop);
      if (connections.size >= MAX_CONNECTIONS) {
        conn.close();
        continue;
      }
      const handled = handle(conn).finally(() => connections.delete(handled));
      connections.add(handled);
    } catch (error) {
      if (!stop.aborted) throw error;
    }
  }
  await Promise.all(connections);
  if (account === null && !options.serve) throw toAgentError(cancel.reason);
  return account;
}

/** The NBD server listens where the sender has reached this agent, unless told otherwise. */
function nbdHost(options: ReceiveOptions, conn: Deno.TcpConn): string {
  return options.nbdHost ?? conn.localAddr.hostname;
}

function makeHost(options: ReceiveOptions): DestinationHost {
  const { diskDir, diskPaths, pathMaps, reuseDisks, allowDirs, runDir } = options;
  if (options.adoptQmp !== null) return new AdoptHost(options.adoptQmp);
  const placement: DiskPlacement = { diskDir, diskPaths, pathMaps, reuseDisks, allowDirs };
  if (options.launchCommand !== null) {
    return new CommandHost({ command: options.launchCommand, placement });
  }
  const folders = [...allowDirs, ...pathMaps.map(({ to }) => to), ...(diskDir ? [diskDir] : [])];
  return new LaunchHost({
    binaries: options.qemuBinaries,
    runDir,
    qmpPath: options.qmp,
    placement,
    policy: {
      readFolders: [...QEMU_DATA_FOLDERS, ...folders],
      writeFolders: [runDir, ...folders],
      bridges: options.bridges,
      allowVnc: options.allowVnc,
      overrides: new Map(options.overrides.map(({ key, value }) => [key, value])),
    },
  });
}
