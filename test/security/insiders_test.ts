// Senders that know the secret and mean harm (insiders.ts, hostile_params.ts), on a receiver through
// which a guest is on its way: each is refused with a reason, in bounded time and memory, and leaves
// nothing; the guest arrives.

import { assert, assertEquals, assertLess } from "@std/assert";
import { delay } from "../../src/base/deadline.ts";
import { AgentError } from "../../src/base/errors.ts";
import { inspectGuest } from "../../src/guest/inspect.ts";
import { makeImage } from "../lib/disks.ts";
import { requires } from "../lib/requires.ts";
import { HOSTILE_CASES } from "./hostile_params.ts";
import { HostileSender } from "./hostile_sender.ts";
import { MALICE, type Malice } from "./insiders.ts";
import { Lab } from "./lab.ts";
import { findDescendants, listOpenFiles, listTree } from "./process_facts.ts";

const GROWTH_MIB = 128;
/** For the receiver to end what it had begun. */
const TIDY_MS = 10_000;
const LOOK_MS = 20;
/** A hundred notifications of a kibibyte, and some more. */
const MAX_LOG_BYTES = 160 * 1024;
const MAX_REASON_LENGTH = 1000;

async function suffer(lab: Lab, { name, limitMs, reasons, run }: Malice, signal: AbortSignal) {
  const mark = lab.mark();
  let took = 0;
  const cost = await lab.bounded({ growthMib: GROWTH_MIB }, async () => {
    const began = performance.now();
    await run(lab, signal);
    took = performance.now() - began;
  });
  assertLess(took, limitMs, `${name}: took too long`);
  const reason = await lab.expectReason(mark, reasons);
  const logged = JSON.stringify(lab.receiver.agent.lines.slice(mark)).length;
  assertLess(logged, MAX_LOG_BYTES, `${name}: filled the log`);
  console.log(`  ${name}: ${reason}, ${cost}`);
}

/** Waits for `check` to pass: what a refusal leads to may take a moment. */
async function eventually(
  check: () => Promise<void>,
  { message }: { message: string },
): Promise<void> {
  const giveUp = AbortSignal.timeout(TIDY_MS);
  for (;;) {
    try {
      return await check();
    } catch (error) {
      if (giveUp.aborted) throw new Error(message, { cause: error });
      await delay(LOOK_MS);
    }
  }
}

Deno.test({
  name: "security: senders that break the protocol are cut off, and the guest arrives",
  ...requires("qemu-system-x86_64", "qemu-img"),
  async fn(t) {
    const signal = AbortSignal.timeout(300_000);
    await using lab = await Lab.create(signal);
    await lab.hold(signal);
    const files = await lab.openFiles();
    for (const row of MALICE) await t.step(row.name, () => suffer(lab, row, signal));
    await t.step("no connection of any of them is open any more", () => lab.settle(files, signal));
    await t.step("the guest arrives", () => lab.release(signal));
    await lab.end();
  },
});

Deno.test({
  name: "security: hostile params are refused and leave nothing, and the guest arrives",
  ...requires("qemu-system-x86_64", "qemu-img"),
  async fn(t) {
    const signal = AbortSignal.timeout(300_000);
    await using lab = await Lab.create(signal);
    const { params } = await inspectGuest(lab.source.monitor, {
      qemuPid: lab.source.pid,
      choice: { copyStorage: true, only: null, exclude: [] },
      signal,
    });
    await lab.hold(signal);
    const { disks } = lab.site;
    const places = {
      disks,
      outside: lab.site.file("outside"),
      link: `${disks}/link`,
      backed: `${disks}/backed.qcow2`,
    };
    await Deno.writeTextFile(places.outside, "x".repeat(2 ** 20));
    const backing = { path: places.outside, format: "raw" } as const;
    await makeImage(places.backed, { format: "qcow2", sizeBytes: 24 * 2 ** 20, backing, signal });
    await Deno.symlink(places.outside, places.link);
    const { pid } = lab.receiver.agent;
    const look = async () => ({
      disks: await listTree(lab.site.disks),
      run: await listTree(lab.site.run),
      tmp: await listTree(lab.site.tmp),
      children: await findDescendants(pid),
      files: await lab.openFiles(),
    });
    const before = await look();
    // Another guest than the one that is on its way, with disks of other names.
    const renamed = params.disks.map((disk, at) => ({ ...disk, path: `/x/evil-${at}` }));
    const base = { ...params, name: "evil", disks: renamed };
    for (const { name, refusals, dropped, change } of HOSTILE_CASES) {
      await t.step(name, async () => {
        const cost = await lab.bounded({ growthMib: GROWTH_MIB }, async () => {
          await using sender = await HostileSender.greet(await lab.connectProven(signal), signal);
          let refusal: unknown;
          let started = "";
          let opened: string[] = [];
          try {
            await sender.plan(change(base, places));
            const { pid } = await sender.prepare();
            started = await Deno.readTextFile(`/proc/${pid}/cmdline`);
            opened = await listOpenFiles(pid!);
          } catch (error) {
            refusal = error;
          }
          assert(!opened.includes(places.outside), `${name}: QEMU has opened ${places.outside}`);
          if (dropped && started !== "" && !dropped.test(started)) return;
          assert(refusal instanceof AgentError, `${name}: it was accepted: ${started} ${refusal}`);
          assert(refusals.includes(refusal.code), `${refusal.code}: ${refusal.message}`);
          assertLess(refusal.message.length, MAX_REASON_LENGTH);
          console.log(`  ${refusal.message}`);
        });
        await eventually(async () => assertEquals(await look(), before), {
          message: `${name}: something was left behind`,
        });
        console.log(`  ${cost}`);
      });
    }
    for (const path of [places.link, places.backed]) await Deno.remove(path);
    await t.step("the guest arrives", () => lab.release(signal));
    await lab.end();
  },
});
