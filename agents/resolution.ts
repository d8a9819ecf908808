// One side of one migration on its way to a settled state, after its agent was killed: carries out the
// rules of src/migration/ownership.ts step by step. Journal first or effect first is the rule's word.

import { AgentError, type Side } from "../src/base/errors.ts";
import { isSameProcess } from "../src/base/process_identity.ts";
import type { Remain } from "../src/base/remains.ts";
import { endProcess } from "../src/guest/proc.ts";
import { isLiving, settleRemains } from "../src/guest/settle.ts";
import { runAccepted } from "../src/guest/settle_qemu.ts";
import type { Journal } from "../src/migration/journal.ts";
import type { JournalRecord } from "../src/migration/journal_record.ts";
import {
  type Answer,
  carryOut,
  type DestinationEvent,
  type Effect,
  mayRun,
  ruleFor,
  type SourceEvent,
} from "../src/migration/ownership.ts";
import { runReceived } from "../src/xen/recovery.ts";
import { endDomain, settleXen } from "../src/xen/settle.ts";
import { runStateOf } from "./journals.ts";
import { pipeCommand } from "./xen_pipe.ts";

/** QEMU may still write to its disks when it is told to end. */
const QUIT_GRACE_MS = 10_000;
/**
 * Phases of the destination in which no handover can be on its way yet. Not `ram`: what its journal
 * says may be older than the answer after which the source hands over.
 */
const BEFORE_HANDOVER: ReadonlySet<JournalRecord["phase"]> = new Set(
  ["preflight", "params", "mirror", null] as const,
);

type Event = SourceEvent | DestinationEvent;

export class Resolution {
  /** What was done on this host, in order. */
  readonly done: string[] = [];
  readonly #journal: Journal;
  readonly #ask: (record: JournalRecord) => Promise<Answer | null>;
  readonly #signal: AbortSignal;
  readonly #before: JournalRecord["state"];
  /** Why the guest that was accepted here cannot go on. */
  #lost = "";

  /** The journal must be this process's own (`takeOver`). */
  constructor(
    journal: Journal,
    options: { ask: (record: JournalRecord) => Promise<Answer | null>; signal: AbortSignal },
  ) {
    this.#journal = journal;
    this.#before = journal.record.state;
    this.#ask = options.ask;
    this.#signal = options.signal;
  }

  /**
   * Brings the journal into a settled state.
   * @param keep the host that shall have the guest, in an operator's words; null: what is certain
   * @throws AgentError `contradiction` (kind refused), `undecided` (kind uncertain) when it takes an
   *   operator, or what could not be done: then nothing was decided, and it can be done again
   */
  async decide(keep: Side | null): Promise<void> {
    if (keep === null) await this.#apply("resolve");
    else if (this.#record.state === "handover_sent") await this.#askFirst(keep);
    else if (this.#record.state === "accepted") await this.#lookFirst(keep);
    else await this.#apply(`keep_${keep}`);
    const { state } = this.#record;
    if (state === "handover_sent" || state === "accepted") throw this.#undecided(state);
  }

  /**
   * Undoes what is left of the migration on this host, once it is settled; lets go of the journal, or
   * removes it (false) when nobody can ask for it any more.
   * @throws AgentError `leftovers` when something could not be undone: it can be done again
   */
  async tidy(): Promise<boolean> {
    const { side, state, phase } = this.#record;
    const { left, failures } = await this.#settle(
      this.#record.remains.filter((remain) => mayGo(remain, this.#record)),
    );
    await this.#journal.update({ remains: left });
    if (failures.length > 0) {
      const error = new AgentError(
        "leftovers",
        `Migration ${this.#record.migration_id} is settled (${state}), but not all that it left ` +
          `on this host could be undone`,
        { side, hint: "see to the causes, then run the same command again" },
      );
      error.undoErrors.push(...failures);
      throw error;
    }
    // What an agent has written for a sender that may ask stays, whatever the phase.
    const unasked = side === "source" ||
      (this.#before === "preparing" && BEFORE_HANDOVER.has(phase));
    if (unasked) await this.#journal.remove();
    else await this.#journal.leave();
    return !unasked;
  }

  get #record(): Readonly<JournalRecord> {
    return this.#journal.record;
  }

  async #apply(event: Event): Promise<void> {
    const { side, state, copy_storage: copiedDisks } = this.#record;
    const rule = ruleFor<Side>(side, state, { event, copiedDisks });
    if (rule.refused !== undefined) throw this.#contradiction(rule.refused);
    await carryOut(rule, {
      perform: (effect) => this.#do(effect),
      write: (next) => this.#journal.update({ state: next }),
    });
    if (rule.followedBy !== undefined) await this.#apply(rule.followedBy);
  }

  async #do(effect: Effect): Promise<void> {
    const { side } = this.#record;
    switch (effect) {
      case "run_guest":
        return side === "source" ? await this.#endLiving() : await this.#runAccepted();
      case "end_guest":
        return side === "source" ? await this.#endGuest() : await this.#endDestination();
      case "ask":
        return await this.#askOnce();
      case "send_handover": // no event of a resolution leads there
        throw new AgentError("bad_rule", `'resolve' cannot '${effect}'`, { kind: "internal" });
    }
  }

  /** At the source this includes that the guest runs on. */
  async #endLiving(): Promise<void> {
    const { failures } = await this.#settle(this.#record.remains.filter(isLiving));
    if (failures.length > 0) throw failures[0];
  }

  async #endDestination(): Promise<void> {
    await this.#endLiving();
    // Before it was accepted, a QEMU that somebody else started is ended only if it was taken over.
    if (this.#record.state === "accepted") await this.#endGuest();
  }

  async #endGuest(): Promise<void> {
    const { hypervisor, uuid, guest_process: process } = this.#record;
    if (hypervisor === "xen") return await endDomain({ uuid: uuid! }, this.#options);
    if (process === null || !await isSameProcess(process)) return;
    // A journal that could not be written any more may say that the guest was given away.
    if (
      this.#record.side === "source" && await runStateOf(this.#record, this.#signal) === "running"
    ) {
      throw new AgentError("guest_runs_here", "The guest runs here: it is not ended", {
        kind: "refused",
        side: "source",
        hint:
          "if it runs at the destination too, decide which one is right and end the other by hand",
      });
    }
    await endProcess(process.pid, QUIT_GRACE_MS);
    this.done.push(`ended the guest's QEMU here (process ${process.pid})`);
  }

  async #runAccepted(): Promise<void> {
    const { hypervisor, guest: name, uuid, should_run: shouldRun } = this.#record;
    const { qmp, guest_process: process } = this.#record;
    const found = hypervisor === "xen"
      ? await runReceived({ uuid: uuid!, name }, { run: shouldRun, ...this.#options })
      : qmp === null || process === null
      ? { state: "lost" as const, why: "its journal names no QEMU" }
      : await runAccepted({ qmp, process }, { shouldRun, ...this.#options });
    if (found.state === "lost") this.#lost = found.why;
    await this.#apply(found.state === "lost" ? "cannot_continue" : "cont_done");
  }

  async #askOnce(): Promise<void> {
    const answer = await this.#askDestination();
    if (answer !== null) await this.#apply(`answer_${answer}`);
  }

  /** What the destination says is certain, and comes before anybody's word. */
  async #askFirst(keep: Side): Promise<void> {
    const answer = await this.#askDestination();
    if (answer === null) return await this.#apply(`keep_${keep}`);
    if ((answer === "running") !== (keep === "destination")) {
      throw this.#contradiction(`the destination answers '${answer}'`);
    }
    await this.#apply(`answer_${answer}`);
  }

  /** A guest that was accepted here may run: it is not given up then, and may be said to stay. */
  async #lookFirst(keep: Side): Promise<void> {
    if (keep === "destination") {
      await this.#apply("resolve");
      if (this.#record.state !== "accepted") return;
    } else if (await runStateOf(this.#record, this.#signal) === "running") {
      throw this.#contradiction("the guest runs here");
    }
    await this.#apply(`keep_${keep}`);
  }

  async #askDestination(): Promise<Exclude<Answer, "uncertain"> | null> {
    const answer = await this.#ask(this.#record);
    if (answer === null || answer === "uncertain") return null;
    this.done.push(`asked the destination, which answered '${answer}'`);
    return answer;
  }

  #settle(remains: readonly Remain[]) {
    const { side, state } = this.#record;
    return settleRemains(remains, {
      mayRun: mayRun<Side>(side, state),
      settleXen: (remain, options) => settleXen(remain, { ...options, pipe: pipeCommand() }),
      ...this.#options,
    });
  }

  get #options() {
    return { signal: this.#signal, log: (done: string) => void this.done.push(done) };
  }

  #contradiction(why: string): AgentError {
    const { migration_id, side, state } = this.#record;
    return new AgentError(
      "contradiction",
      `Migration ${migration_id} cannot be resolved in that way: ${why} (${side}, state ${state})`,
      {
        kind: "refused",
        side,
        hint: `leave --keep out: migrate-agent resolve ${migration_id}`,
      },
    );
  }

  #undecided(state: "handover_sent" | "accepted"): AgentError {
    const { migration_id: id, side, guest } = this.#record;
    const command = `migrate-agent resolve ${id} --keep`;
    const [message, hint] = state === "handover_sent"
      ? [
        `The handover of guest '${guest}' was sent and the destination's answer is not known: ` +
        `the guest stays paused here and may run there`,
        `run 'migrate-agent status ${id}' at the destination; if the guest runs there: ` +
        `${command} destination; if it does not and never will: ${command} source`,
      ]
      : [
        `Guest '${guest}' was accepted here and cannot go on: ${this.#lost}; ` +
        `how long it ran here is not known`,
        `to start it anew from its disks here: ${command} destination; to give it up here, so ` +
        `that it goes on at the source as it was at its pause: ${command} source, then there`,
      ];
    return new AgentError("undecided", message, { kind: "uncertain", side, hint });
  }
}

/** Whether it may be undone once the migration is settled; else it belongs to the guest. */
function mayGo(remain: Remain, record: JournalRecord): boolean {
  switch (record.state) {
    case "running":
      return remain.kind === "folder" && !holdsGuest(remain.path, record);
    case "ended":
      // The guest may have worked on its disks here: whether they are of use is for people to say.
      return remain.kind !== "file";
    default:
      return true;
  }
}

/** The folder in which the guest's QEMU has its sockets, as against one for keys alone. */
function holdsGuest(folder: string, { qmp, remains }: JournalRecord): boolean {
  const inside = (path: string) => path.startsWith(`${folder}/`);
  return (qmp !== null && inside(qmp)) ||
    remains.some((remain) => remain.kind === "pid_file" && inside(remain.path));
}
