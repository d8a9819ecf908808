// Where a guest arrives, as the receiver's story sees it, whatever runs it there: its disks' servers, the
// way in for its memory, and the guest itself once all of it is here. For QEMU that is qemu_landing.ts,
// for a Xen domain xen_landing.ts. When what happens is the receiver's story.

import type { RequestBody } from "../src/control/messages.ts";
import type { DestinationPlan, RegisterUndo } from "../src/guest/destination.ts";
import type { Migration } from "../src/migration/migration.ts";
import type { WireStream } from "../src/wire/stream.ts";
import type { Line } from "./line.ts";
import type { NbdListen, ServedNbd } from "./nbd_transport.ts";

export interface LandingOptions {
  plan: DestinationPlan;
  migration: Migration;
  line: Line;
  /** How the sender wants the disks to travel. */
  asked: RequestBody<"prepare">["nbd"];
  allowPlain: boolean;
  listen: NbdListen;
  onEffect: RegisterUndo;
}

export interface Landing {
  /** What the operator is told of the guest; null where there is nothing to be told. */
  readonly qmp: string | null;
  readonly pid: number | null;
  /** The guest that is arriving. */
  readonly guest: ArrivingGuest;
  /** What the sender is told of the exports; null when no disk is mirrored. */
  readonly served: ServedNbd | null;
  /** Starts the exports; after a restart as they were, for mirrors that go on. */
  serveDisks(signal: AbortSignal): Promise<void>;
  /** Brings what has been mirrored so far onto the disks: less is left to do while the guest waits. */
  flushDisks(signal: AbortSignal): Promise<void>;
  /** Takes the memory from `stream`. */
  takeRam(stream: WireStream, signal: AbortSignal): Promise<void>;
  /**
   * After a lost connection, for mirrors that go on: the servers are stopped, which waits for what they
   * have got, and started anew at the same address. What came over the old connections must not be
   * written after what comes over the new ones.
   */
  reopenDisks(signal: AbortSignal): Promise<void>;
  stopDisks(signal: AbortSignal): Promise<void>;
  waitLoaded(signal: AbortSignal): Promise<void>;
  /**
   * The memory has stopped half-way: makes ready to take all of it once more, with the same disks under
   * the same address. What the mirrors have written is brought into the images first.
   * @throws AgentError `cannot_restart`
   */
  restart(signal: AbortSignal): Promise<void>;
  /** The key of the exports is of no use any more. */
  forgetKey(): Promise<void>;
  /** Lets go of it; a guest that runs there runs on. */
  close(): Promise<void>;
}

/** All of a guest, once it has been loaded. */
export interface ArrivingGuest {
  /** Aborts when it is gone for certain. */
  readonly ended: AbortSignal;
  /**
   * From now on it runs here, or waits, paused, if `run` is false; since when, by the guest's own host.
   * @throws GuestNotResumed when it certainly has not run. Any other error leaves that open
   */
  resume(run: boolean, signal: AbortSignal): Promise<Date>;
  /** After an error that has left that open: finds out, and does what is missing. */
  settle(run: boolean, signal: AbortSignal): Promise<void>;
}

/** The guest has not run here and does not; `cause` says why. */
export class GuestNotResumed extends Error {
  constructor(cause: unknown) {
    super("the guest was not resumed", { cause });
  }
}
