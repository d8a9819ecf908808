// What must hold after every story, whatever struck it: who owns the guest, what is left, what the
// accounts say.

import { assert, assertEquals } from "@std/assert";
import type { AccountEvent } from "../../src/migration/events.ts";
import { isOver } from "./journals.ts";
import type { QemuResult, StoryResult } from "./story.ts";

/** The capabilities and parameters that the source began with: a failed migration puts them back. */
const UNTOUCHED = { capabilities: [] as string[], bandwidth: 134217728 };

/** The rules that hold after any fault. @throws AssertionError that names the first one broken */
export function checkOutcome(story: StoryResult): void {
  const { sender, receiver, source, destination } = story;
  assertEquals(story.violations, [], "the invariant");
  assertEquals(story.leftTemporary, [], "no socket or folder is left");
  checkAccount(sender, "sender");
  if (receiver) checkAccount(receiver, "receiver");
  assertEquals(destination.exports, [], "no export is left");
  checkJournals(story);

  if (destination.ran) {
    assert(!isRunning(source), "the guest went over: it may not run at the source");
    assert(sender.owner !== "source", "the guest went over, and the sender knows or does not");
    assert(receiver?.owner !== "source", "the guest went over, and the receiver knows or does not");
    return;
  }
  // The destination's guest has not run. Unless that is the very thing that nobody can know, the
  // source's runs on.
  if (sender.owner === null) {
    assertEquals(sender.outcome, "uncertain");
    assert(!isRunning(source), "a source in doubt stays paused");
    assert(isRunning(destination) === false);
    return;
  }
  assertEquals(sender.owner, "source");
  assert(sender.outcome !== "completed", "nothing went over, and the sender says so");
  assert(destination.ended, "the destination's QEMU is gone");
  assertEquals(story.leftTargets, [], "no target disk is left");
  if (source.ended) return; // its death was the fault
  assertEquals(source.runState, "running", "the source's guest runs on");
  assertEquals(source.jobs, [], "no block job is left at the source");
  assertEquals(source.nodes, [], "no node is left at the source");
  assertEquals(source.objects, [], "no key is left at the source");
  const capabilities = Object.entries(source.capabilities).filter(([, on]) => on);
  assertEquals(capabilities.map(([name]) => name), UNTOUCHED.capabilities, "capabilities");
  assertEquals(source.parameters["max-bandwidth"], UNTOUCHED.bandwidth, "max-bandwidth");
  assertEquals(sender.error!.undo, [], "what the sender could not undo");
}

/**
 * A journal outlives its migration only to be asked, or because there is something to be decided: then
 * the account says so too.
 */
function checkJournals(story: StoryResult): void {
  const { journals, sender, receiver } = story;
  for (const record of Object.values(journals)) {
    assertEquals(record?.agent ?? null, null, "no journal names an agent that works on it");
    assertEquals(record?.control ?? null, null, "no journal names a socket");
  }
  const { source, destination } = journals;
  const state = source?.state ?? null;
  if (sender.owner === null) assertEquals(state, "handover_sent", "the source's journal");
  else if (state !== null) {
    const word = `the source's journal after: ${JSON.stringify(sender.error)}`;
    assertEquals([sender.owner, state], ["destination", "handed_over"], word);
    assert(!story.source.ended, "what is left to do at the source is to end its QEMU");
  }
  if (destination === null) return;
  if (!isOver(destination)) {
    assertEquals([destination.state, receiver?.owner], ["accepted", null], "nobody knows");
  }
  const ran = destination.state === "running";
  if (ran) assertEquals(receiver?.owner, "destination");
  assert(ran || destination.remains.length === 0, "what never ran has left nothing");
}

/** The account of a run that failed names side, phase and code; of one that did not, no error. */
function checkAccount(account: AccountEvent, whose: string): void {
  const { outcome, error } = account;
  if (outcome === "completed") {
    assertEquals(error, null, `${whose}'s error`);
    assertEquals(account.owner, "destination");
    return;
  }
  assert(error !== null, `the ${whose} says why it is ${outcome}`);
  assert(error.side !== null, `the ${whose} names the side: ${error.message}`);
  assert(error.phase !== null, `the ${whose} names the phase: ${error.message}`);
  for (const code of ["internal_error", "system_error"]) {
    assert(error.code !== code, `the ${whose} has not thought of it: ${error.message}`);
  }
  assert(error.message !== "");
}

function isRunning(qemu: QemuResult): boolean {
  return !qemu.ended && qemu.runState === "running";
}
