// The source's story: one function a phase, in the order of docs/how-it-works.md, to be read beside
// receiver.ts. What it asks of QEMU is in src/guest, what it says to the other agent in src/control,
// who owns the guest in src/migration/ownership.ts.

import { Deadline } from "../src/base/deadline.ts";
import { AgentError, toAgentError } from "../src/base/errors.ts";
import type { SendOptions } from "../src/cli/send_command.ts";
import { sendDocument } from "../src/control/document.ts";
import type { LocalServer } from "../src/control/local_server.ts";
import { PROTOCOL_VERSIONS, type ReplyBody, type RequestBody } from "../src/control/messages.ts";
import type { MirrorProgress } from "../src/guest/mirror.ts";
import type { RamProgress } from "../src/guest/ram.ts";
import { makePrivateFolder, type PrivateFolder } from "../src/guest/private_folder.ts";
import type { SourceGuest } from "../src/guest/source.ts";
import { Account } from "../src/migration/account.ts";
import type { AccountEvent } from "../src/migration/events.ts";
import type { Journal } from "../src/migration/journal.ts";
import type { Migration } from "../src/migration/migration.ts";
import { StateFolder } from "../src/migration/state_folder.ts";
import { connect, type Connection } from "./connect.ts";
import { openControl } from "./control.ts";
import { handOver } from "./handover.ts";
import { beginSourceJournal, writeQuietly } from "./new_journal.ts";
import { Limits } from "./limits.ts";
import { Line } from "./line.ts";
import { chooseTransport, type NbdEnd } from "./nbd_transport.ts";
import { OutboundDisks } from "./outbound_disks.ts";
import { OutboundMemory } from "./outbound_memory.ts";
import { resumeMigration } from "./outcome.ts";
import { Peer } from "./peer.ts";
import { causeOf, mirrorReporter, ramReporter, reportPlan, warnIfInsecure } from "./reports.ts";
import { openSource } from "./source_guest.ts";
import { AGENT_VERSION } from "./version.ts";

/** Runs one migration from its first check to its end; never throws: the account says it all. */
export async function send(options: SendOptions, migration: Migration): Promise<AccountEvent> {
  const sender = new Sender(options, migration);
  using limit = new Deadline(
    options.timeoutMs ?? Infinity,
    () =>
      new AgentError("timeout", `Not done within the ${options.timeoutMs} ms of --timeout`, {
        kind: "timeout",
      }),
  );
  migration.failWith(limit.signal);
  try {
    await migration.runPhase("preflight", (signal) => sender.preflight(signal));
    await migration.runPhase("params", (signal) => sender.params(signal));
    if (options.copyStorage) await migration.runPhase("mirror", (signal) => sender.mirror(signal));
    await migration.runPhase("ram", (signal) => sender.ram(signal));
    await migration.runPhase("switchover", (signal) => sender.switchover(signal));
    migration.signal.throwIfAborted(); // the last moment at which anybody can say no
    await migration.runPhase("handover", (signal) => sender.handover(signal));
    await migration.runPhase("end", (signal) => sender.end(signal));
  } catch (error) {
    await sender.giveUp(toAgentError(error, { side: "source" }));
  }
  await sender.close();
  return sender.account.finish(migration);
}

class Sender {
  readonly account = new Account();
  readonly #options: SendOptions;
  readonly #migration: Migration;
  #guest!: SourceGuest;
  /** The guest's own end ends the migration, until all of it has arrived. */
  #needsGuest: () => void = () => {};
  #connection!: Connection;
  #line: Line | undefined;
  #askedOn: Peer | undefined;
  #journal: Journal | undefined;
  #control: LocalServer | undefined;
  readonly #limits: Limits;
  #transport!: RequestBody<"prepare">["nbd"];
  #prepared!: ReplyBody<"prepare">;
  #disks: OutboundDisks | undefined;
  #suspended: Promise<void> = Promise.resolve();
  #memory: OutboundMemory | undefined;
  #folder: PrivateFolder | undefined;
  #stoppedAtMs = 0;
  #sentRam!: RamProgress;
  readonly #reportMirrors: (progress: MirrorProgress[]) => void;
  readonly #reportRam: (progress: RamProgress) => void;
  readonly #stopWatchingMirrors = new AbortController();

  constructor(options: SendOptions, migration: Migration) {
    this.#options = options;
    this.#migration = migration;
    this.#limits = new Limits(options);
    this.#reportMirrors = mirrorReporter({ migration, account: this.account });
    this.#reportRam = ramReporter({ migration, account: this.account });
  }

  async preflight(signal: AbortSignal): Promise<void> {
    const { copyStorage, peerTimeoutMs, reconnectMs, stateDir } = this.#options;
    const migration = this.#migration;
    const state = await StateFolder.open(stateDir);
    const guest = this.#guest = await migration.run(
      "inspect",
      () => openSource(this.#options, { state, report: migration.report, signal }),
    );
    this.#needsGuest = migration.failWith(guest.failed);
    const { params } = guest;
    this.account.guest = params.name;
    this.account.running = params.running;
    const connection = await migration.run(
      "connect",
      async () =>
        this.#connection = await connect(this.#options.connection, { peerTimeoutMs, signal }),
    );
    migration.report({
      type: "started",
      guest: params.name,
      peer: connection.peer,
      copy_storage: copyStorage,
    });
    warnIfInsecure(migration, connection.encrypted);

    const peer = Peer.dialled(connection.link, { peerTimeoutMs });
    const line = this.#line = new Line(peer, {
      migration,
      reconnectMs,
      onLost: () => this.#suspended = this.#disks?.mirrors.suspend() ?? Promise.resolve(),
      find: (signal) => this.#findReceiver(signal),
      onFound: async (signal) => await this.#disks?.mirrors.resume(signal),
    });
    const hello = await migration.run("hello", () =>
      line.request("hello", {
        protocol_versions: [...PROTOCOL_VERSIONS],
        agent_version: AGENT_VERSION,
        features: [],
      }, signal));
    migration.id = hello.migration_id;
    await migration.run("open_journal", async () => {
      const journal = await beginSourceJournal(state, { migration, guest, connection });
      this.#journal = journal;
      this.#control = await openControl(state, {
        journal,
        migration,
        account: this.account,
        set: (settings, signal) =>
          this.#limits.change(settings, {
            phase: migration.phase,
            mirrors: this.#disks?.mirrors,
            outgoing: this.#memory?.outgoing,
            signal,
          }),
      });
    });

    const stream = peer.session.openStream("params");
    const { sha256 } = await sendDocument(stream, JSON.stringify(params));
    migration.step(1);
    const plan = await migration.run("plan", () =>
      line.request("plan", {
        copy_storage: copyStorage,
        params_sha256: sha256,
      }, signal));
    reportPlan(params.disks, { plan, migration, account: this.account });
  }

  async params(signal: AbortSignal): Promise<void> {
    const { process: { pid }, features } = this.#guest;
    const { nbd, insecureNbd, reconnectMs, handoverTimeoutMs } = this.#options;
    const folder = this.#folder = await makePrivateFolder({ pid });
    await this.#journal!.addRemain({ kind: "folder", path: folder.path });
    this.#transport = chooseTransport({
      tunnel: nbd === "tunnel" || !this.#connection.direct,
      insecureNbd,
      encrypted: this.#connection.encrypted,
      features,
    });
    this.#prepared = await this.#migration.run("prepare", () =>
      this.#line!.request("prepare", {
        nbd: this.#transport,
        reconnect_ms: reconnectMs,
        handover_timeout_ms: handoverTimeoutMs,
      }, signal));
    this.account.qmp = this.#prepared.qmp;
    this.account.pid = this.#prepared.pid;
    this.#migration.step(2);
  }

  async mirror(signal: AbortSignal): Promise<void> {
    const migration = this.#migration;
    const { nbd, exports } = this.#prepared;
    if (nbd === null) return; // every disk is shared, read-only or empty
    const { mirrors } = this.#disks = await OutboundDisks.start({
      guest: this.#guest,
      nbd,
      exports,
      asked: this.#transport,
      end: this.#end(),
      limits: this.#limits,
      reconnectMs: this.#options.reconnectMs,
    }, signal);
    migration.step(3);
    const stop = AbortSignal.any([migration.signal, this.#stopWatchingMirrors.signal]);
    const line = this.#line!;
    migration.guard(line.retry(() => mirrors.watch(stop), migration.signal));
    const report = this.#reportMirrors;
    await migration.run(
      "wait_ready",
      () => line.retry(() => mirrors.waitReady({ report, signal }), signal),
    );
    migration.step(4);
  }

  async ram(signal: AbortSignal): Promise<void> {
    const migration = this.#migration;
    const memory = this.#memory = new OutboundMemory({
      migration,
      guest: this.#guest,
      line: this.#line!,
      journal: this.#journal!,
      folder: this.#folder!,
      limits: this.#limits,
      autoConverge: this.#options.autoConverge,
      report: this.#reportRam,
    });
    migration.undo.add("restore the migration's parameters", () => memory.restore());
    migration.undo.add("let the guest run on", () => this.#guest.restore());
    migration.undo.add("cancel the migration of the memory", () => memory.cancel());
    // Before that: `migrate_cancel` drains block I/O, and none may hang on the link.
    migration.undo.add("cut off the mirrors", async () => await this.#disks?.mirrors.cutOff());
    await this.#line!.retry(async () => {
      try {
        this.#stoppedAtMs = await memory.send(signal);
      } catch (error) {
        if (this.#line!.recovers(error)) {
          // The mirrors stay as they are, so that only the memory is sent once more.
          await this.#suspended;
          await memory.cancel();
          await memory.restore();
        }
        throw error;
      }
    }, signal);
  }

  async switchover(signal: AbortSignal): Promise<void> {
    const migration = this.#migration;
    this.#stopWatchingMirrors.abort();
    await migration.run("finish_mirrors", async () => await this.#disks?.mirrors.finish(signal));
    // Asked, and written, at once, so that both are done when the source is.
    const arrived = this.#line!.request("arrived", {}, signal);
    const written = migration.run(
      "journal_handover",
      () => this.#journal!.update({ state: "handover_sent", phase: "handover" }),
    );
    const sent = migration.run("finish_ram", () => this.#memory!.finish(signal));
    [this.#sentRam] = await Promise.all([sent, arrived, written]);
    this.#needsGuest(); // all of it is there: its end here loses nothing any more
  }

  async handover(signal: AbortSignal): Promise<void> {
    const migration = this.#migration;
    const run = this.#guest.shouldRun;
    const reason: unknown = this.#guest.failed.reason;
    // Its end loses nothing now; but what somebody lets run here must not run there too.
    if (reason instanceof AgentError && reason.code === "guest_resumed") throw reason;
    await migration.run("hand_over", async () => {
      await handOver(this.#line!, {
        run,
        migration,
        reach: this.#connection.again,
        peerTimeoutMs: this.#options.peerTimeoutMs,
        withinMs: this.#options.handoverTimeoutMs,
        keep: (peer) => this.#askedOn = peer,
        signal,
      });
      // At once: whatever fails from now on, the guest must not run here.
      this.account.owner = "destination";
      migration.undo.forgetAll();
    });
    this.account.running = run;
    if (run) this.account.downtimeMs = Date.now() - this.#stoppedAtMs;
    migration.step(7);
    try {
      await migration.run("journal_outcome", () => this.#journal!.update({ state: "handed_over" }));
    } catch (error) {
      this.#warnAtEnd(error); // a journal that cannot be written changes nothing about what is true
    }
    if (this.#disks) this.#reportMirrors(this.#disks.mirrors.lastProgress);
    this.#reportRam(this.#sentRam);
  }

  async end(signal: AbortSignal): Promise<void> {
    const migration = this.#migration;
    try {
      await migration.run("remove_key", async () => await this.#disks?.removeKey());
      if (this.#options.sourceAfter === "quit") {
        await migration.run("quit", () => this.#guest.quit(signal));
      }
      await this.#tidy();
      await this.#journal!.remove();
    } catch (error) {
      this.#warnAtEnd(error);
      await this.#leaveHandedOver(error);
    }
    // A receiver that was asked again has heard all that it needs.
    if (this.#line!.peer.lost.aborted) return;
    try {
      await migration.run("finish", () => this.#line!.request("finish", {}, signal));
    } catch (error) {
      this.#warnAtEnd(error);
    }
  }

  /** What is left to do here is to end its QEMU, if that is still there. */
  async #leaveHandedOver(error: unknown): Promise<void> {
    const journal = this.#journal!;
    const last = { state: "handed_over", note: toAgentError(error).message } as const;
    const gone = this.#guest.qmp.ended.aborted;
    await this.#tidy();
    await writeQuietly(this.#migration, () => gone ? journal.remove() : journal.leave(last));
  }

  /** The guest runs at the destination: nothing here can be a failure of the migration any more. */
  #warnAtEnd(error: unknown): void {
    const { code, message } = toAgentError(error);
    this.#migration.report({ type: "warning", code, text: `After the handover: ${message}` });
  }

  /** Dials until the receiver goes on with this migration. */
  async #findReceiver(signal: AbortSignal): Promise<Peer> {
    await this.#suspended;
    const { again: reach } = this.#connection;
    const { peerTimeoutMs } = this.#options;
    const migrationId = this.#migration.id!;
    const { peer, qemu } = await resumeMigration({ reach, migrationId, peerTimeoutMs, signal });
    this.account.qmp = qemu.qmp;
    this.account.pid = qemu.pid;
    return peer;
  }

  #end(): NbdEnd {
    return {
      qmp: this.#guest.qmp,
      pid: this.#guest.process.pid,
      folder: this.#folder!,
      line: this.#line!,
      migration: this.#migration,
    };
  }

  /** Whatever failed: the guest runs on here, unless it was handed over. */
  async giveUp(error: AgentError): Promise<void> {
    this.account.error = error;
    const journal = this.#journal;
    if (error.kind === "uncertain") {
      this.account.owner = null;
      return await writeQuietly(this.#migration, () => journal!.leave({ note: error.message }));
    }
    if (this.account.owner === "destination") return await this.#leaveHandedOver(error);
    this.account.qmp = this.account.pid = null;
    const told = this.#line?.peer.tellFailure(error);
    // Before the guest runs on: a state that gives it away must not outlive that.
    if (journal?.record.state === "handover_sent") {
      await writeQuietly(this.#migration, () => journal.update({ state: "owning" }));
    }
    const undoErrors = await this.#migration.undo.rollback();
    // With its QEMU gone there is nothing in it that could be left.
    if (!this.#guest?.qmp.ended.aborted) error.undoErrors.push(...undoErrors);
    this.account.running = this.#guest?.shouldRun ?? this.account.running;
    this.account.error = causeOf(error, this.#guest?.failed);
    await told;
    await this.#tidy();
    const clean = error.undoErrors.length === 0;
    await writeQuietly(
      this.#migration,
      async () => await (clean ? journal?.remove() : journal?.leave({ note: error.message })),
    );
  }

  /** Lets go of everything that this program holds. */
  async close(): Promise<void> {
    const { error } = this.account;
    for (const peer of [this.#line?.peer, this.#askedOn]) {
      // Who says goodbye has nothing more to ask.
      if (error?.kind === "uncertain") peer?.session.close();
      else await peer?.leave(error ? "failed" : "done", error ? "the migration failed" : "done");
    }
    if (!this.#line) this.#connection?.link.close();
    await this.#tidy();
    await this.#guest?.close();
  }

  /** Removes what nobody would look for if this program were killed after its journal's last word. */
  async #tidy(): Promise<void> {
    this.#disks?.[Symbol.dispose]();
    this.#memory?.[Symbol.dispose]();
    await this.#folder?.[Symbol.asyncDispose]();
    await this.#control?.[Symbol.asyncDispose]();
  }
}
