// The table of what strangers try (strangers.ts), on a receiver through which a guest is on its way:
// each ends in bounded time and memory with its reason in the log, and the guest arrives.

import { assertEquals, assertLess } from "@std/assert";
import { requires } from "../lib/requires.ts";
import { Lab } from "./lab.ts";
import { type Attack, ATTACKS, SLOW_ATTACKS } from "./strangers.ts";

const limit = () => AbortSignal.timeout(180_000);
const GROWTH_MIB = 96;
/** So many in a minute are one too many. */
const GUESSES = 10;

/** Runs one attack to its end and finds the reason in the receiver's log. */
async function attack(lab: Lab, { name, reasons, limitMs, run }: Attack, signal: AbortSignal) {
  const mark = lab.mark();
  let took = 0;
  const cost = await lab.bounded({ growthMib: GROWTH_MIB }, async () => {
    const began = performance.now();
    await run(lab, signal);
    took = performance.now() - began;
  });
  const reason = await lab.expectReason(mark, reasons);
  assertLess(took, limitMs, `${name}: took too long`);
  console.log(`  ${name}: ${reason}, ${cost}`);
}

Deno.test({
  name: "security: strangers get nowhere and do not disturb the guest that is on its way",
  ...requires("qemu-system-x86_64", "qemu-img", "openssl"),
  async fn(t) {
    const signal = limit();
    await using lab = await Lab.create(signal);
    await lab.hold(signal);
    const files = await lab.openFiles();
    for (const row of ATTACKS) {
      await t.step(row.name, async () => {
        await attack(lab, row, signal);
        await lab.assertServes(signal); // and what failed before is forgotten
      });
    }
    for (const row of SLOW_ATTACKS.slice(1)) {
      await t.step(row.name, () => attack(lab, row, signal));
    }
    await t.step(SLOW_ATTACKS[0]!.name, async () => {
      await attack(lab, SLOW_ATTACKS[0]!, signal);
      await lab.assertServes(signal);
    });
    await t.step("no connection of any of them is open any more", () => lab.settle(files, signal));
    await t.step("the guest arrives", () => lab.release(signal));
    await lab.end();
  },
});

Deno.test({
  name: "security: who guesses is locked out, and the guest that is on its way does not notice",
  ...requires("qemu-system-x86_64", "qemu-img"),
  async fn() {
    const signal = limit();
    await using lab = await Lab.create(signal);
    await lab.hold(signal);
    const [guess] = ATTACKS;
    let mark = lab.mark();
    await Promise.all(Array.from({ length: GUESSES }, () => guess!.run(lab, signal)));
    await lab.expectReason(mark, guess!.reasons, GUESSES);
    mark = lab.mark();
    const dialled = await lab.assertServes(signal).then(() => "let in", () => "turned away");
    assertEquals(dialled, "turned away");
    await lab.expectReason(mark, ["too_many_failures"]);
    await lab.release(signal);
    await lab.end();
  },
});
