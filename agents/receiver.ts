// The destination's story: one function a phase, under the same headings as sender.ts. Each answers
// the sender's request of that phase. What it asks of QEMU is in src/guest.

import { abortable } from "../src/base/deadline.ts";
import { AgentError, toAgentError } from "../src/base/errors.ts";
import { receiveDocument } from "../src/control/document.ts";
import { chooseVersion } from "../src/control/messages.ts";
import type {
  DestinationHost,
  DestinationPlan,
  DestinationQemu,
  RegisterUndo,
} from "../src/guest/destination.ts";
import { Exports } from "../src/guest/exports.ts";
import { queryFeatures } from "../src/guest/features.ts";
import { badParams, type GuestParams, parseParams } from "../src/guest/params.ts";
import { IncomingMigration } from "../src/guest/ram.ts";
import { resumeGuest } from "../src/guest/resume.ts";
import type { PskCredentials } from "../src/guest/nbd_keys.ts";
import { makePrivateFolder, type PrivateFolder } from "../src/guest/private_folder.ts";
import { Account } from "../src/migration/account.ts";
import type { AccountEvent } from "../src/migration/events.ts";
import type { Migration } from "../src/migration/migration.ts";
import { QmpCommandError } from "../src/qmp/client.ts";
import type { Admitted } from "./door.ts";
import { Peer } from "./peer.ts";
import { relayToSocket } from "./local_relay.ts";
import { serveNbd } from "./nbd_transport.ts";
import { reportPlan, warnIfInsecure } from "./reports.ts";
import { type Request, Requests } from "./requests.ts";
import { AGENT_VERSION } from "./version.ts";

export interface ReceiverOptions {
  /** Called on a valid `hello`: gives the migration's id, or throws why it cannot be served. */
  claim: () => string;
  host: DestinationHost;
  /** Where QEMU's NBD server listens; `host` is what the sender is told. Null: only in a tunnel. */
  nbd: { host: string; ports: { first: number; last: number } | null } | null;
  /** Whether disks may cross the network readable for everybody on it. */
  allowPlainNbd: boolean;
}

/**
 * Serves one connection from its first byte to its end. Gives null when it was no migration: the
 * peer never got as far as a valid `hello`. Never throws: the account says it all.
 */
export async function receive(
  sender: Admitted,
  options: ReceiverOptions,
  migration: Migration,
): Promise<AccountEvent | null> {
  const receiver = new Receiver(sender, options, migration);
  try {
    await migration.runPhase("preflight", (signal) => receiver.preflight(signal));
    await migration.runPhase("params", (signal) => receiver.params(signal));
    if (receiver.copiesStorage) await migration.runPhase("mirror", (s) => receiver.mirror(s));
    await migration.runPhase("ram", (signal) => receiver.ram(signal));
    await migration.runPhase("switchover", (signal) => receiver.switchover(signal));
    migration.signal.throwIfAborted(); // the last moment at which anybody can say no
    await migration.runPhase("handover", (signal) => receiver.handover(signal));
    await migration.runPhase("end", (signal) => receiver.end(signal));
  } catch (error) {
    const failure = toAgentError(error, { side: "destination" });
    if (migration.id === null && failure.kind !== "cancelled") {
      const { code, message } = failure; // no account will tell
      const text = `The connection from ${sender.peer} came to no migration: ${message}`;
      migration.report({ type: "warning", code, text });
    }
    await receiver.giveUp(failure);
  }
  await receiver.close();
  return migration.id === null ? null : receiver.account.finish(migration);
}

class Receiver {
  readonly account = new Account();
  copiesStorage = false;
  readonly #sender: Admitted;
  readonly #options: ReceiverOptions;
  readonly #migration: Migration;
  readonly #requests = new Requests();
  readonly #onEffect: RegisterUndo;
  #peer: Peer | undefined;
  #params!: GuestParams;
  #plan!: DestinationPlan;
  #qemu: DestinationQemu | undefined;
  #exports!: Exports;
  #nbdCredentials: PskCredentials | null = null;
  #incoming: IncomingMigration | undefined;
  #folder: PrivateFolder | undefined;
  #incomingRequest: Request<"incoming"> | undefined;
  #arrivedRequest!: Request<"arrived">;
  #handoverRequest!: Request<"handover">;

  constructor(sender: Admitted, options: ReceiverOptions, migration: Migration) {
    this.#sender = sender;
    this.#options = options;
    this.#migration = migration;
    this.#onEffect = (what, undo) => void migration.undo.add(what, undo);
  }

  async preflight(signal: AbortSignal): Promise<void> {
    const migration = this.#migration;
    const { handlers } = this.#requests;
    const peer = this.#peer = await Peer.accepted(this.#sender.link, {
      migration,
      handlers,
      signal,
    });
    peer.guard(migration);
    const hello = await this.#requests.next("hello", signal);
    await hello.answer(() => {
      const protocolVersion = chooseVersion(hello.body.protocol_versions);
      migration.id = this.#options.claim();
      return Promise.resolve({
        protocol_version: protocolVersion,
        agent_version: AGENT_VERSION,
        migration_id: migration.id,
        features: [],
      });
    });

    const stream = await peer.session.acceptStream("params", signal);
    const document = await abortable(receiveDocument(stream), signal);
    await stream.closeWrite();
    const plan = await this.#requests.next("plan", signal);
    await plan.answer(async () => {
      if (plan.body.params_sha256 !== document.sha256) throw badParams("their hash is wrong");
      const params = this.#params = parseParams(document.text);
      this.copiesStorage = plan.body.copy_storage;
      this.account.guest = params.name;
      this.account.running = params.running;
      migration.report({
        type: "started",
        guest: params.name,
        peer: this.#sender.peer,
        copy_storage: this.copiesStorage,
      });
      warnIfInsecure(migration, this.#sender.encrypted);
      migration.step(1);
      this.#plan = await this.#options.host.plan(params, signal);
      const { binary, qemuVersion, targets, warnings } = this.#plan;
      const answer = {
        qemu_version: qemuVersion,
        qemu_binary: binary,
        disks: targets.map(({ disk: { name, action }, path, note }) => ({
          name,
          action,
          path,
          note,
        })),
        warnings,
      };
      reportPlan(params.disks, { plan: answer, migration, account: this.account });
      return answer;
    });
  }

  async params(signal: AbortSignal): Promise<void> {
    const migration = this.#migration;
    const request = await this.#requests.next("prepare", signal);
    await request.answer(async () => {
      const plan = this.#plan;
      const onEffect = this.#onEffect;
      const qemu = this.#qemu = await this.#options.host.start(this.#params, {
        plan,
        onEffect,
        signal,
      });
      migration.failWith(qemu.qmp.ended);
      this.account.qmp = qemu.qmp.path;
      this.account.pid = qemu.pid;
      migration.step(2);
      this.#exports = new Exports(qemu.qmp, plan.targets);
      this.#folder = await makePrivateFolder({ pid: qemu.pid });
      const { session } = this.#peer!;
      const served = this.#exports.count === 0 ? null : await serveNbd(this.#exports, {
        end: { ...qemu, folder: this.#folder, session, migration },
        asked: request.body.nbd,
        allowPlain: this.#options.allowPlainNbd,
        features: await queryFeatures(qemu.qmp, signal),
        listen: this.#options.nbd,
        signal,
      });
      this.#nbdCredentials = served?.credentials ?? null;
      return {
        nbd: served?.nbd ?? null,
        exports: served?.exports ?? [],
        qmp: qemu.qmp.path,
        pid: qemu.pid,
      };
    });
  }

  /** QEMU's NBD server does the work; the sender's next request says that every mirror is ready. */
  async mirror(signal: AbortSignal): Promise<void> {
    this.#migration.step(3);
    this.#incomingRequest = await this.#requests.next("incoming", signal);
    this.#migration.step(4);
  }

  async ram(signal: AbortSignal): Promise<void> {
    const migration = this.#migration;
    const { qmp } = this.#qemu!;
    const request = this.#incomingRequest ?? await this.#requests.next("incoming", signal);
    await request.answer(async () => {
      const stream = await this.#peer!.session.acceptStream("ram", signal);
      migration.step(5);
      await this.#exports.flush(signal);
      const path = `${this.#folder!.path}/ram.sock`;
      this.#incoming = new IncomingMigration(qmp);
      const features = await queryFeatures(qmp, signal);
      await this.#incoming.listen(path, { features, signal });
      migration.step(6);
      migration.guard(relayToSocket(stream, { path, signal: migration.signal }));
      return {};
    });
    this.#arrivedRequest = await this.#requests.next("arrived", signal);
  }

  async switchover(signal: AbortSignal): Promise<void> {
    await this.#arrivedRequest.answer(async () => {
      await Promise.all([this.#exports.stop(signal), this.#incoming!.waitLoaded(signal)]);
      return {};
    });
    this.#handoverRequest = await this.#requests.next("handover", signal);
  }

  async handover(signal: AbortSignal): Promise<void> {
    const migration = this.#migration;
    const { body: { run } } = this.#handoverRequest;
    await this.#handoverRequest.answer(async () => {
      let resumedAt = new Date();
      try {
        if (run) resumedAt = await resumeGuest(this.#qemu!.qmp, signal);
      } catch (error) {
        if (!(error instanceof QmpCommandError)) throw error; // it may have run: no word of refusal
        throw await this.#refuseHandover(error);
      }
      migration.undo.forgetAll();
      this.account.owner = "destination";
      this.account.running = run;
      migration.step(7);
      return { running: run, resumed_at: resumedAt.toISOString() };
    });
  }

  async end(signal: AbortSignal): Promise<void> {
    try {
      await this.#nbdCredentials?.remove();
      const finish = await this.#requests.next(
        "finish",
        AbortSignal.any([
          signal,
          this.#peer!.session.signal,
        ]),
      );
      await finish.answer(() => Promise.resolve({}));
    } catch (error) {
      // The guest runs here: nothing the sender does can be a failure of the migration any more.
      const { code, message } = toAgentError(error);
      this.#migration.report({ type: "warning", code, text: `After the handover: ${message}` });
    }
  }

  /** Whatever failed: the guest has not run here and will not, and nothing is left of it. */
  async giveUp(error: AgentError): Promise<void> {
    this.account.error = error;
    if (this.#migration.phase === "handover" && error.code !== "handover_refused") {
      // Whether the guest runs here is not known: ending its QEMU could lose it.
      this.account.owner = null;
      this.#migration.undo.forgetAll();
      return;
    }
    this.account.qmp = this.account.pid = null;
    const told = this.#peer?.tellFailure(error);
    error.undoErrors.push(...await this.#migration.undo.rollback());
    // A handover that comes too late gets an answer that leaves no doubt, once its QEMU is gone.
    if (error.undoErrors.length === 0) this.#requests.refuse(error, handoverRefused(error));
    await told;
  }

  /** Lets go of everything that this program holds; a guest that runs here runs on. */
  async close(): Promise<void> {
    const failed = this.account.error !== null;
    await this.#peer?.leave(failed ? "failed" : "done", failed ? "the migration failed" : "done");
    this.#incoming?.[Symbol.dispose]();
    await this.#qemu?.qmp.close();
    await this.#options.host.close();
    await this.#folder?.[Symbol.asyncDispose]();
  }

  /** Ends the QEMU that would not run the guest, and only then says that it never will. */
  async #refuseHandover(cause: AgentError): Promise<AgentError> {
    const undoErrors = await this.#migration.undo.rollback();
    if (undoErrors.length > 0) return undoErrors[0]!;
    return handoverRefused(cause);
  }
}

function handoverRefused(cause: AgentError): AgentError {
  return new AgentError(
    "handover_refused",
    `The destination's QEMU would not run the guest and was ended: ${cause.message}`,
    { kind: cause.kind, side: "destination", cause },
  );
}
