// The destination's story: one function a phase, under the same headings as sender.ts. Each answers
// the sender's request of that phase. What it asks of QEMU is in src/guest; who owns the guest is in
// src/migration/ownership.ts.

import { abortable, delay } from "../src/base/deadline.ts";
import { AgentError, toAgentError } from "../src/base/errors.ts";
import { identifyProcess } from "../src/base/process_identity.ts";
import { AsyncQueue } from "../src/base/queue.ts";
import { receiveDocument } from "../src/control/document.ts";
import { chooseVersion, type RequestBody } from "../src/control/messages.ts";
import type { DestinationHost, DestinationPlan, RegisterUndo } from "../src/guest/destination.ts";
import { badParams, type GuestParams, parseParams } from "../src/guest/params.ts";
import { Account } from "../src/migration/account.ts";
import type { AccountEvent } from "../src/migration/events.ts";
import type { Journal } from "../src/migration/journal.ts";
import type { Migration } from "../src/migration/migration.ts";
import type { StateFolder } from "../src/migration/state_folder.ts";
import { Acceptance } from "./acceptance.ts";
import type { Admitted } from "./door.ts";
import { beginDestinationJournal } from "./new_journal.ts";
import { Landing } from "./landing.ts";
import { Line } from "./line.ts";
import type { NbdListen } from "./nbd_transport.ts";
import type { Outcome } from "./outcome.ts";
import type { Peer } from "./peer.ts";
import { reportPlan, warnIfInsecure } from "./reports.ts";
import { type Request, Requests } from "./requests.ts";
import { AGENT_VERSION } from "./version.ts";

/** A sender that gives up asking at the last moment may be a bit late. */
const LATE_MS = 5000;

export interface ReceiverOptions {
  /** Called on a valid `hello`: gives the migration's id, or throws why it cannot be served. */
  claim: () => string;
  host: DestinationHost;
  state: StateFolder;
  nbd: NbdListen;
  /** Whether disks may cross the network readable for everybody on it. */
  allowPlainNbd: boolean;
}

interface Surroundings extends ReceiverOptions {
  sender: Admitted;
  /** Those that may be found again, or asked: this one is among them from its id on. */
  living: Map<string, Receiver>;
  /** Ends this migration. */
  cancel: AbortController;
}

/** Receives one guest, beginning with the `hello` that `peer` has sent. */
export function receive(
  peer: Peer,
  options: Surroundings,
  migration: Migration,
): { receiver: Receiver; account: Promise<AccountEvent> } {
  const receiver = new Receiver(peer, options, migration);
  return { receiver, account: tell(receiver, migration) };
}

/** Never throws: the account says it all. */
async function tell(receiver: Receiver, migration: Migration): Promise<AccountEvent> {
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
    await receiver.giveUp(toAgentError(error, { side: "destination" }));
  }
  await receiver.close();
  return receiver.account.finish(migration);
}

export class Receiver {
  readonly account = new Account();
  readonly requests = new Requests();
  copiesStorage = false;
  readonly #options: Surroundings;
  readonly #migration: Migration;
  readonly #firstPeer: Peer;
  /** Connections on which the sender goes on. */
  readonly #callers = new AsyncQueue<Peer>();
  #line: Line | undefined;
  #journal: Journal | undefined;
  #acceptance: Acceptance | undefined;
  #params!: GuestParams;
  #plan!: DestinationPlan;
  #asked: RequestBody<"prepare"> | undefined;
  #landing: Landing | undefined;
  /** After a lost connection: there is a QEMU again that takes the memory. */
  #ready: Promise<void> = Promise.resolve();
  #incomingRequest: Request<"incoming"> | undefined;
  #arrivedRequest!: Request<"arrived">;
  #handoverRequest!: Request<"handover">;

  constructor(peer: Peer, options: Surroundings, migration: Migration) {
    this.#firstPeer = peer;
    this.#options = options;
    this.#migration = migration;
    peer.join(migration);
  }

  async preflight(signal: AbortSignal): Promise<void> {
    const migration = this.#migration;
    const { session } = this.#firstPeer;
    this.#unlessFirst = migration.failWith(this.#firstPeer.lost);
    const hello = await this.requests.next("hello", signal);
    await migration.run("hello", () =>
      hello.answer(() => {
        const protocolVersion = chooseVersion(hello.body.protocol_versions);
        const { claim, living, sender } = this.#options;
        const id = migration.id = claim();
        living.set(id, this);
        const shutOut = sender.rememberFor(id);
        this.forget = () => {
          living.delete(id);
          shutOut();
        };
        return Promise.resolve({
          protocol_version: protocolVersion,
          agent_version: AGENT_VERSION,
          migration_id: migration.id,
          features: [],
        });
      }));

    const document = await migration.run("receive_params", async () => {
      const stream = await session.acceptStream("params", signal);
      const document = await abortable(receiveDocument(stream), signal);
      await stream.closeWrite();
      return document;
    });
    const plan = await this.requests.next("plan", signal);
    await plan.answer(async () => {
      if (plan.body.params_sha256 !== document.sha256) throw badParams("their hash is wrong");
      const params = this.#params = parseParams(document.text);
      this.copiesStorage = plan.body.copy_storage;
      this.account.guest = params.name;
      this.account.running = params.running;
      migration.report({
        type: "started",
        guest: params.name,
        peer: this.#options.sender.peer,
        copy_storage: this.copiesStorage,
      });
      warnIfInsecure(migration, this.#options.sender.encrypted);
      migration.step(1);
      await migration.run("plan", async () => {
        this.#plan = await this.#options.host.plan(params, signal);
      });
      await migration.run("open_journal", () => this.#openJournal());
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
    const request = await this.requests.next("prepare", signal);
    const { nbd: asked, reconnect_ms: reconnectMs } = this.#asked = request.body;
    this.#unlessFirst();
    const line = this.#line = new Line(this.#firstPeer, {
      migration,
      reconnectMs,
      onLost: () => this.#recover(),
      find: (signal) => this.#nextCaller(signal),
    });
    await request.answer(async () => {
      const { host, allowPlainNbd: allowPlain, nbd: listen } = this.#options;
      const plan = this.#plan;
      const onEffect: RegisterUndo = async (what, undo, remain) => {
        if (remain) await this.#journal!.addRemain(remain);
        migration.undo.add(what, undo);
      };
      await migration.run("start_qemu", async () => {
        const qemu = await host.start(this.#params, { plan, onEffect, signal });
        const landing = { plan, migration, line, asked, allowPlain, listen, onEffect };
        this.#landing = new Landing(qemu, landing);
      });
      const landing = this.#landing!;
      const { qmp, pid } = landing.qemu;
      this.account.qmp = qmp.path;
      this.account.pid = pid;
      await this.#journal!.update({ guest_process: await identifyProcess(pid), qmp: qmp.path });
      migration.step(2);
      await migration.run("start_exports", () => landing.serveDisks(signal));
      const { served } = landing;
      return {
        nbd: served?.nbd ?? null,
        exports: served?.exports ?? [],
        qmp: qmp.path,
        pid,
      };
    });
  }

  /** QEMU's NBD server does the work; the sender's next request says that every mirror is ready. */
  async mirror(signal: AbortSignal): Promise<void> {
    const migration = this.#migration;
    migration.step(3);
    this.#incomingRequest = await migration.run(
      "wait_incoming",
      () => this.requests.next("incoming", signal),
    );
    migration.step(4);
  }

  async ram(signal: AbortSignal): Promise<void> {
    for (;;) {
      try {
        return await this.#receiveRam(signal);
      } catch (error) {
        if (!this.#line!.recovers(error)) throw error;
        await this.#line!.connected(signal);
      }
    }
  }

  async #receiveRam(signal: AbortSignal): Promise<void> {
    const migration = this.#migration;
    const line = this.#line!;
    const { session, lost } = await line.connected(signal);
    const untilLost = AbortSignal.any([signal, lost]);
    const request = this.#incomingRequest ?? await this.requests.next("incoming", untilLost);
    this.#incomingRequest = undefined;
    await request.answer(async () => {
      const stream = await session.acceptStream("ram", untilLost);
      migration.step(5);
      await migration.run("flush", () => this.#landing!.flushDisks(untilLost));
      await migration.run("incoming", () => this.#landing!.takeRam(stream, untilLost));
      migration.step(6);
      return {};
    });
    this.#arrivedRequest = await migration.run(
      "wait_arrived",
      () => this.requests.next("arrived", untilLost),
    );
  }

  async switchover(signal: AbortSignal): Promise<void> {
    const migration = this.#migration;
    await this.#arrivedRequest.answer(async () => {
      await Promise.all([
        migration.run("stop_exports", () => this.#landing!.stopDisks(signal)),
        migration.run("load", () => this.#landing!.waitLoaded(signal)),
      ]);
      this.#arrived = true;
      return {};
    });
    this.#handoverRequest = await migration.run(
      "wait_handover",
      () => this.requests.next("handover", signal),
    );
  }

  async handover(signal: AbortSignal): Promise<void> {
    const migration = this.#migration;
    const { body: { run } } = this.#handoverRequest;
    const acceptance = this.#acceptance = new Acceptance(this.#landing!.qemu, {
      journal: this.#journal!,
      migration,
      sharesDisks: this.#params.disks.some(({ action }) => action === "shared"),
    });
    await this.#handoverRequest.answer(async () => {
      const resumedAt = await acceptance.accept(run, signal);
      this.#outcome.resolve("running");
      this.account.owner = "destination";
      this.account.running = run;
      migration.step(7);
      return { running: run, resumed_at: resumedAt.toISOString() };
    });
  }

  async end(signal: AbortSignal): Promise<void> {
    const migration = this.#migration;
    const { lost } = this.#line!.peer;
    try {
      await migration.run("journal_running", () => this.#acceptance!.confirm());
      await migration.run("remove_key", () => this.#landing!.forgetKey());
      const finish = await migration.run(
        "wait_finish",
        () => this.requests.next("finish", AbortSignal.any([signal, lost])),
      );
      await finish.answer(() => Promise.resolve({}));
      this.#finished = true;
      await this.#journal!.remove();
    } catch (error) {
      // The guest runs here: nothing the sender does can be a failure of the migration any more.
      const { code, message } = toAgentError(error);
      migration.report({ type: "warning", code, text: `After the handover: ${message}` });
      await this.#write(() => this.#journal!.leave());
    }
  }

  /** The sender goes on with this migration on a new connection. Returns when everything waits for it. */
  async resume(peer: Peer): Promise<void> {
    const line = this.#line;
    if (!line?.mayReconnect) {
      throw new AgentError("no_such_migration", "This migration cannot go on after a lost link", {
        kind: "refused",
        side: "destination",
      });
    }
    this.#callers.push(peer);
    line.replace();
    await line.connected(this.#migration.signal);
  }

  /** What became of the guest; decides it when that is open: the sender that asks has no other way. */
  async ask(): Promise<Outcome> {
    if (!this.#acceptance) {
      this.#migration.fail(
        new AgentError("asked_before_handover", "The sender has lost its connection and asks", {
          kind: "link",
          side: "destination",
        }),
      );
    }
    const outcome = await this.#outcome.promise;
    if (outcome !== "uncertain") this.#wasAsked.resolve();
    return outcome;
  }

  /** Nobody can find or ask it any more. */
  forget: () => void = () => {};

  /** It has ended; a sender that was lost may still want to know what became of the guest. */
  async waitUntilAsked(signal: AbortSignal): Promise<void> {
    if (!this.#mayBeAsked) return;
    const ms = this.#asked!.handover_timeout_ms + LATE_MS;
    const wasAsked = new AbortController();
    this.#wasAsked.promise.then(() => wasAsked.abort());
    // Whatever ends the wait, it has ended.
    await delay(ms, AbortSignal.any([signal, wasAsked.signal])).catch(() => {});
  }

  /**
   * From the answer to `arrived` on, the handover may be on its way; unless the sender has said goodbye.
   */
  get #mayBeAsked(): boolean {
    const reason: unknown = this.#line?.peer.lost.reason;
    const left = reason instanceof AgentError && reason.code === "peer_went_away";
    return this.#arrived && !this.#finished && !left;
  }

  #arrived = false;
  #finished = false;
  readonly #wasAsked = Promise.withResolvers<void>();
  readonly #outcome = Promise.withResolvers<Outcome>();

  /** Whatever failed: the guest has not run here and will not, and nothing is left of it. */
  async giveUp(error: AgentError): Promise<void> {
    this.account.error = error;
    if (this.#acceptance?.mayRun) {
      // It may run here already: ending its QEMU could lose it.
      const outcome = await this.#acceptance.settle();
      this.account.owner = outcome === "running" ? "destination" : null;
      this.#migration.undo.forgetAll();
      this.#outcome.resolve(outcome);
      await this.#write(() => this.#journal!.update({ agent: null, note: error.message }));
      return;
    }
    this.account.qmp = this.account.pid = null;
    const { peer } = this.#line ?? { peer: this.#firstPeer };
    const told = peer.tellFailure(error);
    error.undoErrors.push(...await this.#migration.undo.rollback());
    await this.#ready.catch(() => {}); // its failure is what is told here, or a consequence of it
    await this.#bury(error);
    await told;
  }

  /** Its QEMU is gone: says so for good, wherever a sender might ask. */
  async #bury(error: AgentError): Promise<void> {
    const outcome = this.#acceptance?.outcome ?? "never_ran";
    if (error.undoErrors.length > 0) {
      this.#outcome.resolve("uncertain");
      return await this.#write(async () => await this.#journal?.leave());
    }
    // A handover that could have been sent gets an answer that leaves no doubt, even later.
    await this.#write(async () => {
      if (!this.#mayBeAsked) return await this.#journal?.remove();
      const note = error.message;
      await this.#journal?.update({ state: outcome, agent: null, remains: [], note });
    });
    this.requests.refuse(error, Acceptance.refusal(outcome, error));
    this.#outcome.resolve(outcome);
  }

  /** Lets go of everything that this program holds; a guest that runs here runs on. */
  async close(): Promise<void> {
    const failed = this.account.error !== null;
    const { peer } = this.#line ?? { peer: this.#firstPeer };
    await peer.leave(failed ? "failed" : "done", failed ? "the migration failed" : "done");
    await this.#landing?.close();
    await this.#options.host.close();
  }

  /** Before the sender has said whether it comes back, the end of its connection is the end. */
  #unlessFirst: () => void = () => {};

  async #openJournal(): Promise<void> {
    this.#journal = await beginDestinationJournal(this.#options.state, {
      migration: this.#migration,
      params: this.#params,
      plan: this.#plan,
      peer: this.#options.sender.peer,
      copyStorage: this.copiesStorage,
    });
  }

  /** The connection is lost and may be found again: makes ready for that. */
  #recover(): void {
    if (this.#migration.phase !== "ram") return;
    this.#ready = this.#landing!.restart(this.#migration.signal).then(async () => {
      const { qmp, pid } = this.#landing!.qemu;
      this.account.pid = pid;
      await this.#journal!.update({ guest_process: await identifyProcess(pid), qmp: qmp.path });
    });
    this.#migration.guard(this.#ready);
  }

  async #nextCaller(signal: AbortSignal): Promise<Peer> {
    const peer = await this.#callers.take(signal);
    await abortable(this.#ready, signal);
    return peer!;
  }

  /** A journal that cannot be written any more changes nothing about what is true. */
  async #write(change: () => Promise<void>): Promise<void> {
    try {
      await change();
    } catch (error) {
      const { code, message } = toAgentError(error);
      this.#migration.report({ type: "warning", code, text: message });
    }
  }
}
