// Brings a domain back to life that xl has left suspended or under another name. xl(1) has no command
// for the first in every version; but a migration that fails lets its domain run on, and that can be
// had: one that is given up as soon as it has begun.

import { abortable } from "../base/deadline.ts";
import { AgentError, quote } from "../base/errors.ts";
import { BANNER, writeAll } from "./conversation.ts";
import type { DomainIdentity } from "./domain.ts";
import { MigrationStream } from "./stream/migration_stream.ts";
import { awayName, findByUuid, incomingName, queryState, renameDomain, runTool } from "./xl.ts";
import { XlProcess } from "./xl_process.ts";

const GIVE_UP_TIMEOUT_MS = 60_000;

/** A program that joins its standard input and output to a unix socket, whose path is appended. */
export type PipeCommand = readonly string[];

/**
 * Lets the domain go on under its own name, whatever state xl has left it in; can be repeated.
 * @param options.run false leaves a suspended domain as it is, and only gives the name back
 * @returns whether there is such a domain
 */
export async function recoverDomain(
  { uuid, name }: Pick<DomainIdentity, "uuid" | "name">,
  options: { pipe: PipeCommand; run: boolean },
): Promise<boolean> {
  const found = await findByUuid(uuid);
  if (!found) return false;
  if (found.name === awayName(name)) await renameDomain(found.domid, name);
  const state = await queryState(found.domid);
  if (state?.shutdown === "suspend" && options.run) await resumeSuspended(found.domid, options);
  return true;
}

/** Starts a migration of the suspended domain and gives it up when xl has begun to send. */
async function resumeSuspended(domid: number, options: { pipe: PipeCommand }): Promise<void> {
  await using socket = await openPipeSocket();
  const xl = XlProcess.start(migrateArguments(domid, [...options.pipe, socket.path]), "null");
  await giveUp(socket, xl);
  const { said } = await xl.waitEnd(GIVE_UP_TIMEOUT_MS);
  const state = await queryState(domid);
  if (state !== null && state.shutdown === null) return;
  throw new AgentError(
    "domain_stays_suspended",
    `Domain ${domid} is still suspended: xl says ${quote(said.trim(), 1000)}`,
    { hint: "xl list shows it; xl resume (Xen 4.21) or a try by hand may help" },
  );
}

/** Closes the program's connections once libxl has had its turn: before that xl would just end. */
async function giveUp(socket: PipeSocket, xl: XlProcess): Promise<void> {
  const limit = AbortSignal.timeout(GIVE_UP_TIMEOUT_MS);
  const accept = () => abortable(Promise.race([socket.accept(), xl.ended.then(() => null)]), limit);
  using conn = await accept();
  using _ = await accept(); // for a hold (hold.ts), which is not wanted
  if (!conn) return;
  await writeAll(conn, BANNER);
  const stream = new MigrationStream();
  const buffer = new Uint8Array(65536);
  while (true) {
    const count = await abortable(conn.read(buffer), limit);
    if (count === null) return;
    for (const { kind } of stream.feed(buffer.subarray(0, count))) {
      if (kind === "data") return;
    }
  }
}

/**
 * Gives a domain that has been received whole its own name, and lets it run if it is meant to, as xl
 * itself does in the end; can be repeated.
 */
export async function runReceived(
  { uuid, name }: Pick<DomainIdentity, "uuid" | "name">,
  { run, log = () => {} }: { run: boolean; log?: (done: string) => void },
): Promise<{ state: "running" | "paused" } | { state: "lost"; why: string }> {
  const found = await findByUuid(uuid);
  if (!found) return { state: "lost", why: `there is no domain ${quote(name)} here` };
  if (found.name === incomingName(name)) await renameDomain(found.domid, name);
  const state = await queryState(found.domid);
  if (state === null || state.shutdown !== null || state.dying) {
    const why = `domain ${found.domid} has stopped (${state?.shutdown ?? "it is gone"})`;
    return { state: "lost", why };
  }
  if (state.paused && run) {
    await setPaused(found.domid, false);
    log("let the guest run");
  }
  return { state: state.paused && !run ? "paused" : "running" };
}

/** Makes sure that the domain is paused, or that it is not. */
export async function setPaused(domid: number, paused: boolean): Promise<void> {
  const state = await queryState(domid);
  if (state === null || state.paused === paused) return;
  await runTool("xl", [paused ? "pause" : "unpause", String(domid)]);
}

/** `xl migrate` into a program of ours. */
export function migrateArguments(domid: number, command: readonly string[]): string[] {
  const quoted = command.map((word) => `'${word.replaceAll("'", `'\\''`)}'`).join(" ");
  return ["migrate", "-s", "", String(domid), `exec ${quoted}`];
}

export interface PipeSocket extends AsyncDisposable {
  readonly path: string;
  accept(): Promise<Deno.UnixConn>;
}

/** A unix socket in a folder of our own that one program connects to. */
export async function openPipeSocket(): Promise<PipeSocket> {
  const folder = await Deno.makeTempDir({ prefix: "migrate-agent-" });
  const path = `${folder}/xl.sock`;
  const listener = Deno.listen({ transport: "unix", path });
  let open = true;
  return {
    path,
    accept: async () => await listener.accept(),
    [Symbol.asyncDispose]: async () => {
      if (!open) return;
      open = false;
      listener.close();
      await Deno.remove(folder, { recursive: true });
    },
  };
}
