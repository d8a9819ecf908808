// A migration that something happens to, and what both agents make of it.

import { assert, assertEquals } from "@std/assert";
import { abortable } from "../../src/base/deadline.ts";
import type { Agent, AgentEnd, Line } from "../lib/agents.ts";
import { type MoveOptions, startMove } from "../lib/moving.ts";
import type { TestSite } from "../lib/site.ts";

/** How a migration ended on both sides. */
export interface Ends {
  sent: AgentEnd;
  received: AgentEnd;
  /** The guest's counter before. */
  since: number;
  /** All that the agents said, for the message of a check. */
  said: string;
}

export interface DisturbOptions extends MoveOptions {
  disturb: (sender: Agent, receiver: Agent) => Promise<unknown>;
}

/** Runs one migration with a receiver of its own, disturbs it, waits for both ends. Nothing is left to resolve. */
export async function moveDisturbed(site: TestSite, options: DisturbOptions): Promise<Ends> {
  const { signal } = options;
  const { sender, receiver, since } = await startMove(site, options);
  await options.disturb(sender, receiver.agent);
  const sent = await abortable(sender.ended, signal);
  const received = await abortable(receiver.agent.ended, signal);
  assertEquals(await unsettledJournals(site), []);
  return { sent, received, since, said: `${sender.describe()}\n${receiver.agent.describe()}` };
}

export interface Expected {
  /** Exit codes of sender and receiver. */
  codes: [number, number];
  /** The sender's error, or those of which any may be the first to be seen; null: none. */
  error: string | readonly string[] | null;
  /** What the sender's message must say of the cause. */
  says?: RegExp;
  /** Where the guest is by the sender's account, and whether it runs there. */
  guest: { owner: "source" | "destination"; running: boolean };
  /** Warnings of the sender, by their codes, in their order. */
  warnings?: string[];
}

/** Checks both accounts. Nothing may have failed while undoing. */
export function assertEnds({ sent, received, said }: Ends, expected: Expected): void {
  const { owner, running } = sent.account ?? {};
  const error = sent.error?.code ?? null;
  const errors = Array.isArray(expected.error) ? expected.error : [expected.error];
  assertEquals(
    {
      codes: [sent.code, received.code],
      error,
      guest: { owner, running },
      undo: [...sent.error?.undo ?? [], ...received.error?.undo ?? []],
      warnings: warningsOf(sent.lines),
    },
    {
      codes: expected.codes,
      error: errors.includes(error) ? error : errors.join(" or "),
      guest: expected.guest,
      undo: [],
      warnings: expected.warnings ?? [],
    },
    said,
  );
  const message = sent.error?.message ?? "";
  assert(expected.says?.test(message) ?? true, `${message}\n${said}`);
}

/** Options of `send` that make it stand still at a point until it is told to go on. */
export function holdAt(point: string): string[] {
  return ["--fail-at", `${point}:hold`];
}

/** Waits until it stands still there. */
export async function waitHeld(agent: Agent): Promise<void> {
  await agent.waitFor("warning", ({ code }) => code === "fault_point");
}

/** Lets it go on. */
export function goOn(agent: Agent): void {
  agent.kill("SIGUSR1");
}

/** A `never_ran` at the destination claims nothing: it answers a sender that might ask. */
async function unsettledJournals(site: TestSite): Promise<string[]> {
  const left: string[] = [];
  for (const [side, folder] of Object.entries(site.stateDirs)) {
    for await (const { name } of Deno.readDir(folder)) {
      if (!name.endsWith(".json")) continue;
      const { state } = JSON.parse(await Deno.readTextFile(`${folder}/${name}`));
      if (state !== "never_ran") left.push(`${side}: ${state}`);
    }
  }
  return left;
}

/** Each once: a PC's firmware resets it a second time by itself. */
function warningsOf(lines: readonly Line[]): string[] {
  const codes = lines.flatMap((line) => line.type === "warning" ? [line.code] : []);
  return [...new Set(codes)].filter((code) => code !== "fault_point");
}
