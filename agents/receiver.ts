// The destination's story: one function a phase, under the same headings as sender.ts. Each answers
// the sender's request of that phase. What it asks of QEMU is in src/guest; who owns the guest is in
// src/migration/ownership.ts.

import { abortable } from "../src/base/deadline.ts";
import { AgentError, toAgentError } from "../src/base/errors.ts";
import { identifyProcess } from "../src/base/process_identity.ts";
import { receiveDocument } from "../src/control/document.ts";
import type { LocalServer } from "../src/control/local_server.ts";
import { chooseVersion, type ReplyBody, type RequestBody } from "../src/control/messages.ts";
import type { DestinationPlan, RegisterUndo } from "../src/guest/destination.ts";
import { badParams, type GuestParams, parseParams } from "../src/guest/params.ts";
import { Account } from "../src/migration/account.ts";
import type { AccountEvent } from "../src/migration/events.ts";
import type { Journal } from "../src/migration/journal.ts";
import type { Migration } from "../src/migration/migration.ts";
import { mayBeAskedIn } from "../src/migration/ownership.ts";
import { Acceptance } from "./acceptance.ts";
import { openControl } from "./control.ts";
import { Inquiry } from "./inquiry.ts";
import { beginDestinationJournal, writeQuietly } from "./new_journal.ts";
import type { Landing } from "./landing.ts";
import { land, planLanding } from "./landing_host.ts";
import { Line } from "./line.ts";
import type { Outcome } from "./outcome.ts";
import type { Peer } from "./peer.ts";
import type { ReceiverOptions } from "./receiver_options.ts";
import { reportPlan, warnIfInsecure } from "./reports.ts";
import { type Request, Requests } from "./requests.ts";
import { cannotResume, WayBack } from "./way_back.ts";
import { AGENT_VERSION } from "./version.ts";

/** Receives one guest, beginning with the `hello` that `peer` has sent. */
export function receive(
  peer: Peer,
  options: ReceiverOptions,
  migration: Migration,
): { receiver: Receiver; account: Promise<AccountEvent> } {
  const receiver = new Receiver(peer, options, migration);
  const account = tell(receiver, migration);
  return { receiver, account };
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
  readonly inquiry = new Inquiry();
  copiesStorage = false;
  readonly #options: ReceiverOptions;
  readonly #migration: Migration;
  readonly #firstPeer: Peer;
  readonly #wayBack = new WayBack();
  #line: Line | undefined;
  #journal: Journal | undefined;
  #control: LocalServer | undefined;
  #acceptance: Acceptance | undefined;
  #params!: GuestParams;
  #plan!: DestinationPlan;
  #asked: RequestBody<"prepare"> | undefined;
  #landing: Landing | undefined;
  #incomingRequest: Request<"incoming"> | undefined;
  #arrivedRequest!: Request<"arrived">;
  #handoverRequest!: Request<"handover">;
  readonly #closed = Promise.withResolvers<void>();

  constructor(peer: Peer, options: ReceiverOptions, migration: Migration) {
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
        migration.id = this.#options.claim();
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
        this.#plan = await planLanding(params, { hosts: this.#options, signal });
      });
      await migration.run("open_journal", async () => {
        const { state, sender: { peer } } = this.#options;
        const about = { migration, params, plan: this.#plan, peer };
        const journal = this.#journal = await beginDestinationJournal(state, about);
        const { account } = this;
        this.#control = await openControl(state, { journal, migration, account, set: null });
      });
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
      find: (signal) =>
        this.#wayBack.next(() => this.#landing!.reopenDisks(migration.signal), signal),
    });
    await request.answer(async () => {
      const { allowPlainNbd: allowPlain, nbd: listen } = this.#options;
      const onEffect: RegisterUndo = async (what, undo, remain) => {
        if (remain) await this.#journal!.addRemain(remain);
        migration.undo.add(what, undo);
      };
      await migration.run("start_qemu", async () => {
        const common = { plan: this.#plan, migration, line, asked, allowPlain, listen, onEffect };
        this.#landing = await land(this.#params, { ...common, hosts: this.#options, signal });
      });
      const landing = this.#landing!;
      await this.#noteGuest();
      migration.step(2);
      await migration.run("start_exports", () => landing.serveDisks(signal));
      const { served } = landing;
      return {
        nbd: served?.nbd ?? null,
        exports: served?.exports ?? [],
        qmp: this.account.qmp,
        pid: this.account.pid,
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

  ram(signal: AbortSignal): Promise<void> {
    return this.#line!.retry(() => this.#receiveRam(signal), signal);
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
      this.inquiry.expect(this.#asked!.handover_timeout_ms);
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
    const acceptance = this.#acceptance = new Acceptance(this.#landing!.guest, {
      journal: this.#journal!,
      migration,
      sharesDisks: this.#params.disks.some(({ action }) => action === "shared"),
    });
    await this.#handoverRequest.answer(async () => {
      const resumedAt = await acceptance.accept(run, signal);
      this.inquiry.decide("running");
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
      // First: what the journal calls settled has nothing left to be undone in its QEMU.
      await migration.run("remove_key", () => this.#landing!.forgetKey());
      await migration.run("journal_running", () => this.#acceptance!.confirm());
      const finish = await migration.run(
        "wait_finish",
        () => this.requests.next("finish", AbortSignal.any([signal, lost])),
      );
      await finish.answer(() => Promise.resolve({}));
      this.inquiry.hear();
      await this.#tidy();
      await this.#journal!.remove();
    } catch (error) {
      // The guest, and what the journal names, is here: no failure of the migration any more.
      const { code, message } = toAgentError(error);
      migration.report({ type: "warning", code, text: `After the handover: ${message}` });
      await this.#tidy();
      const left = () => this.#journal!.leave({ state: "running", remains: [] });
      await writeQuietly(migration, left);
    }
  }

  /** The sender goes on with this migration on a new connection. Returns when everything waits for it. */
  async resume(peer: Peer): Promise<ReplyBody<"resume">> {
    const line = this.#line;
    if (!line?.mayReconnect) throw cannotResume();
    this.#wayBack.come(peer);
    line.leave(line.peer);
    await line.connected(this.#migration.signal);
    const { qmp, pid } = this.account;
    return { qmp, pid };
  }

  /** What became of the guest; decides it when that is open: the sender that asks has no other way. */
  ask(): Promise<Outcome> {
    if (!this.#acceptance) {
      const text = "The sender has lost its connection and asks";
      this.#migration.fail(new AgentError("asked_before_handover", text, { kind: "link" }));
    }
    return this.inquiry.answer;
  }

  /** The sender has heard the answer: nobody will ask again. */
  async hear(): Promise<void> {
    this.inquiry.hear();
    await this.#closed.promise;
    await writeQuietly(this.#migration, async () => await this.#journal?.remove());
  }

  /** Whether a sender may still want to know what became of the guest. */
  get mayBeAsked(): boolean {
    return this.inquiry.isOpen(this.#peer);
  }

  get #peer(): Peer {
    return this.#line?.peer ?? this.#firstPeer;
  }

  /** Whatever failed: the guest has not run here and will not, and nothing is left of it. */
  async giveUp(error: AgentError): Promise<void> {
    this.account.error = error;
    if (error.side === "source") this.inquiry.hear(); // its sender says so, and keeps the guest
    if (this.#acceptance?.mayRun) {
      // It may run here already: ending its QEMU could lose it.
      const outcome = await this.#acceptance.settle();
      this.account.owner = outcome === "running" ? "destination" : null;
      this.#migration.undo.forgetAll();
      this.inquiry.decide(outcome);
      // What is left belongs to the guest now, unless that is not known.
      const known = outcome === "running" ? { state: outcome, remains: [] } : {};
      const end = { ...known, note: error.message };
      await this.#tidy();
      return await writeQuietly(this.#migration, () => this.#journal!.leave(end));
    }
    this.account.qmp = this.account.pid = null;
    const told = this.#peer.tellFailure(error);
    await this.#wayBack.settled();
    error.undoErrors.push(...await this.#migration.undo.rollback());
    await this.#tidy();
    await this.#bury(error);
    await told;
  }

  /** Its QEMU is gone: says so for good, wherever a sender might ask. */
  async #bury(error: AgentError): Promise<void> {
    const outcome = this.#acceptance?.outcome ?? "never_ran";
    if (error.undoErrors.length > 0) {
      this.inquiry.decide("uncertain");
      return await writeQuietly(this.#migration, async () => await this.#journal?.leave());
    }
    // A handover that could have been sent gets an answer that leaves no doubt, even later.
    await writeQuietly(this.#migration, async () => {
      const isAsked = mayBeAskedIn(this.#migration.phase) && !this.inquiry.isClosed(this.#peer);
      if (!isAsked) return await this.#journal?.remove();
      const note = error.message;
      await this.#journal?.leave({ state: outcome, remains: [], note });
    });
    this.requests.refuse(error, Acceptance.refusal(outcome, error));
    this.inquiry.decide(outcome);
  }

  /** Lets go of everything that this program holds; a guest that runs here runs on. */
  async close(): Promise<void> {
    const failed = this.account.error !== null;
    await this.#peer.leave(failed ? "failed" : "done", failed ? "the migration failed" : "done");
    await this.#tidy();
    await this.#options.host.close();
    this.#closed.resolve();
  }

  /** Removes what nobody would look for if this program were killed after its journal's last word. */
  async #tidy(): Promise<void> {
    await this.#landing?.close();
    await this.#control?.[Symbol.asyncDispose]();
  }

  /** Before the sender has said whether it comes back, the end of its connection is the end. */
  #unlessFirst: () => void = () => {};

  async #noteGuest(): Promise<void> {
    const { qmp, pid } = this.#landing!;
    this.account.qmp = qmp;
    this.account.pid = pid;
    const process = pid === null ? null : await identifyProcess(pid);
    await this.#journal!.update({ qmp, guest_process: process });
  }

  /** The connection is lost and may be found again: makes ready for that. */
  #recover(): void {
    const { phase, signal } = this.#migration;
    if (phase !== "ram") return;
    const ready = this.#landing!.restart(signal).then(() => this.#noteGuest());
    this.#wayBack.prepare(ready); // where it fails, the sender is told when it is back
  }
}
