// The source's story: one function a phase, in the order of docs/how-it-works.md, to be read beside
// receiver.ts. What it asks of QEMU is in src/guest, what it says to the other agent in src/control.

import { Deadline } from "../src/base/deadline.ts";
import { AgentError, quote, toAgentError } from "../src/base/errors.ts";
import type { SendOptions } from "../src/cli/send_command.ts";
import { sendDocument } from "../src/control/document.ts";
import { PROTOCOL_VERSIONS, type ReplyBody, type RequestBody } from "../src/control/messages.ts";
import { flushImages } from "../src/guest/flush.ts";
import { type InspectedGuest, inspectGuest } from "../src/guest/inspect.ts";
import { type MirrorProgress, MirrorSet } from "../src/guest/mirror.ts";
import { OutgoingMigration, type RamProgress } from "../src/guest/ram.ts";
import { quitQemu } from "../src/guest/quit.ts";
import { RunState } from "../src/guest/run_state.ts";
import type { PskCredentials } from "../src/guest/nbd_keys.ts";
import { makePrivateFolder, type PrivateFolder } from "../src/guest/private_folder.ts";
import { Account } from "../src/migration/account.ts";
import type { AccountEvent } from "../src/migration/events.ts";
import type { Migration } from "../src/migration/migration.ts";
import { QmpClient } from "../src/qmp/client.ts";
import { connect, type Connection } from "./connect.ts";
import { Peer } from "./peer.ts";
import { LocalListener } from "./local_relay.ts";
import { chooseTransport, type NbdEnd, reachNbd } from "./nbd_transport.ts";
import { mirrorReporter, ramReporter, reportPlan, warnIfInsecure } from "./reports.ts";
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
  #qmp: QmpClient | undefined;
  #guest!: InspectedGuest;
  #runState!: RunState;
  #connection!: Connection;
  #peer: Peer | undefined;
  #transport!: RequestBody<"prepare">["nbd"];
  #prepared!: ReplyBody<"prepare">;
  #nbdCredentials: PskCredentials | null = null;
  #mirrors: MirrorSet | undefined;
  #outgoing: OutgoingMigration | undefined;
  #folder: PrivateFolder | undefined;
  #stoppedAtMs = 0;
  #sentRam!: RamProgress;
  readonly #reportMirrors: (progress: MirrorProgress[]) => void;
  readonly #reportRam: (progress: RamProgress) => void;
  readonly #stopWatchingMirrors = new AbortController();

  constructor(options: SendOptions, migration: Migration) {
    this.#options = options;
    this.#migration = migration;
    this.#reportMirrors = mirrorReporter({ migration, account: this.account });
    this.#reportRam = ramReporter({ migration, account: this.account });
  }

  async preflight(signal: AbortSignal): Promise<void> {
    const { qmp, qemuPid, copyStorage, disks: only, excludeDisks: exclude } = this.#options;
    const migration = this.#migration;
    const source = this.#qmp = await QmpClient.connect(qmp, { signal });
    migration.failWith(source.ended);
    this.#runState = new RunState(source);
    this.#guest = await inspectGuest(source, {
      qemuPid,
      choice: { copyStorage, only, exclude },
      signal,
    });
    const { params } = this.#guest;
    migration.guard(this.#runState.follow(params.running));
    this.account.guest = params.name;
    this.account.running = params.running;
    const connection = this.#connection = await connect(this.#options.connection, signal);
    migration.report({
      type: "started",
      guest: params.name,
      peer: connection.peer,
      copy_storage: copyStorage,
    });
    warnIfInsecure(migration, connection.encrypted);

    this.#peer = Peer.dialled(connection.link, migration);
    this.#peer.guard(migration);
    const hello = await this.#peer.channel.request("hello", {
      protocol_versions: [...PROTOCOL_VERSIONS],
      agent_version: AGENT_VERSION,
      features: [],
    }, signal);
    migration.id = hello.migration_id;

    const stream = this.#peer.session.openStream("params");
    const { sha256 } = await sendDocument(stream, JSON.stringify(params));
    migration.step(1);
    const plan = await this.#peer.channel.request("plan", {
      copy_storage: copyStorage,
      params_sha256: sha256,
    }, signal);
    reportPlan(params.disks, { plan, migration, account: this.account });
  }

  async params(signal: AbortSignal): Promise<void> {
    const { process: { pid }, features } = this.#guest;
    this.#folder = await makePrivateFolder({ pid });
    this.#transport = chooseTransport({
      tunnel: this.#options.nbd === "tunnel" || !this.#connection.direct,
      insecureNbd: this.#options.insecureNbd,
      encrypted: this.#connection.encrypted,
      features,
    });
    const request = { nbd: this.#transport };
    this.#prepared = await this.#peer!.channel.request("prepare", request, signal);
    this.account.qmp = this.#prepared.qmp;
    this.account.pid = this.#prepared.pid;
    this.#migration.step(2);
  }

  async mirror(signal: AbortSignal): Promise<void> {
    const migration = this.#migration;
    const { nbd, exports } = this.#prepared;
    const { params: { disks }, features } = this.#guest;
    if (nbd === null) return; // every disk is shared, read-only or empty
    const end = this.#end();
    const server = await reachNbd(nbd, { end, asked: this.#transport, signal });
    this.#nbdCredentials = server.credentials;
    const mirrors = this.#mirrors = new MirrorSet(this.#qmp!, {
      nbd: server.nbd,
      tlsCreds: server.tlsCreds,
      targets: exports.map(({ disk: name, export: exportName }) => ({
        disk: disks.find((disk) => disk.name === name && disk.action === "mirror") ??
          unknownDisk(name),
        export: exportName,
      })),
      speedBytesPerS: this.#options.diskBandwidth ?? 0,
      features,
    });
    migration.undo.add("end the mirrors", () => mirrors.abandon());
    await mirrors.start(signal);
    migration.step(3);
    migration.guard(
      mirrors.watch(AbortSignal.any([migration.signal, this.#stopWatchingMirrors.signal])),
    );
    await mirrors.waitReady({ report: this.#reportMirrors, signal });
    migration.step(4);
    await mirrors.blockWrites(signal);
  }

  async ram(signal: AbortSignal): Promise<void> {
    const migration = this.#migration;
    const { ramBandwidth, downtimeLimitMs, autoConverge } = this.#options;
    const outgoing = this.#outgoing = new OutgoingMigration(this.#qmp!, this.#guest.features);
    migration.undo.add("restore the migration's parameters", () => outgoing.restore());
    await outgoing.configure({
      bandwidthBytesPerS: ramBandwidth ?? 0,
      downtimeLimitMs,
      autoConverge,
    }, signal);

    const stream = this.#peer!.session.openStream("ram");
    migration.step(5);
    await this.#peer!.channel.request("incoming", {}, signal);
    migration.step(6);
    const images = this.#guest.params.disks.filter(({ action }) => action === "mirror");
    await flushImages(images.map(({ path }) => path!), signal);
    const listener = await LocalListener.open(this.#folder!, "ram.sock");
    migration.guard(listener.relayOne(stream, migration.signal));
    migration.undo.add("let the guest run on", () => this.#runState.restore());
    migration.undo.add("cancel the migration of the memory", () => outgoing.cancel());
    // Before that: `migrate_cancel` drains block I/O, and none may hang on the link.
    migration.undo.add("cut off the mirrors", async () => await this.#mirrors?.cutOff());
    await outgoing.start(listener.path, signal);
    this.#stoppedAtMs = await outgoing.waitStopped({ report: this.#reportRam, signal });
  }

  async switchover(signal: AbortSignal): Promise<void> {
    this.#stopWatchingMirrors.abort();
    await this.#mirrors?.finish(signal);
    // Asked at once, so that the answer is here when the source is done.
    const arrived = this.#peer!.channel.request("arrived", {}, signal);
    const [ram] = await Promise.all([this.#outgoing!.finish(signal), arrived]);
    this.#sentRam = ram;
  }

  async handover(signal: AbortSignal): Promise<void> {
    const run = this.#runState.shouldRun;
    try {
      const answer = await this.#peer!.channel.request("handover", { run }, signal);
      this.account.owner = "destination";
      this.account.running = answer.running;
      this.#migration.undo.forgetAll();
      if (run) this.account.downtimeMs = Date.now() - this.#stoppedAtMs;
      this.#migration.step(7);
      if (this.#mirrors) this.#reportMirrors(this.#mirrors.lastProgress);
      this.#reportRam(this.#sentRam);
    } catch (error) {
      const failure = toAgentError(error);
      // The receiver says that it did not and will not run the guest: it is still ours.
      if (failure.code === "handover_refused") throw failure;
      this.#migration.undo.forgetAll();
      this.account.owner = null;
      throw new AgentError(
        "handover_uncertain",
        `The guest was handed over and no answer came (${failure.message}): ` +
          `it is paused here and may run at the destination`,
        {
          kind: "uncertain",
          cause: failure,
          hint: "look at the destination: if the guest runs there, end the QEMU here; " +
            "if it does not and its QEMU is gone, `cont` here",
        },
      );
    }
  }

  async end(signal: AbortSignal): Promise<void> {
    const migration = this.#migration;
    try {
      await this.#nbdCredentials?.remove();
      if (this.#options.sourceAfter === "quit") {
        await quitQemu(this.#qmp!, { pid: this.#guest.process.pid, signal });
      }
      await this.#peer!.channel.request("finish", {}, signal);
    } catch (error) {
      // The guest runs at the destination: nothing here can be a failure of the migration any more.
      const { code, message } = toAgentError(error);
      migration.report({ type: "warning", code, text: `After the handover: ${message}` });
    }
  }

  #end(): NbdEnd {
    return {
      qmp: this.#qmp!,
      pid: this.#guest.process.pid,
      folder: this.#folder!,
      session: this.#peer!.session,
      migration: this.#migration,
    };
  }

  /** Whatever failed: the guest runs on here, unless it was handed over. */
  async giveUp(error: AgentError): Promise<void> {
    this.account.error = error;
    if (error.kind === "uncertain") return;
    this.account.qmp = this.account.pid = null;
    const told = this.#peer?.tellFailure(error);
    error.undoErrors.push(...await this.#migration.undo.rollback());
    await told;
  }

  /** Lets go of everything that this program holds. */
  async close(): Promise<void> {
    const failed = this.account.error !== null;
    await this.#peer?.leave(failed ? "failed" : "done", failed ? "the migration failed" : "done");
    this.#mirrors?.[Symbol.dispose]();
    this.#outgoing?.[Symbol.dispose]();
    await this.#folder?.[Symbol.asyncDispose]();
    await this.#qmp?.close();
  }
}

function unknownDisk(name: string): never {
  throw new AgentError(
    "unknown_disk",
    `The receiver exports ${quote(name)}, which is not mirrored`,
  );
}
