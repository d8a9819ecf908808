// The part of the fault matrix that every run of the tests has: every fault, every phase, both sides.
// All of it: `deno task test:fault`.

import { assertEquals } from "@std/assert";
import { PHASES } from "../../src/migration/phases.ts";
import { requires } from "../lib/requires.ts";
import type { CaseResult } from "./case.ts";
import { type Fault, FAULTS } from "./faults.ts";
import { listPoints, runToEnd } from "./matrix.ts";
import { describeCase, renderTable } from "./table.ts";

const NEEDS = ["qemu-system-x86_64", "qemu-img", "ip", "mount", "setpriv", "root"];

/** The guest's place after each, which is known: what else must hold, every case checks. */
const CASES: readonly { point: string; fault: Fault; guest: CaseResult["guest"] }[] = [
  { point: "source.preflight.plan.after", fault: "kill receiver", guest: "source" },
  { point: "source.params.prepare.after", fault: "kill sender", guest: "source" },
  { point: "destination.params.start_exports.after", fault: "disk full", guest: "source" },
  { point: "source.mirror.wait_ready.before", fault: "cut", guest: "source" },
  { point: "source.mirror.wait_ready.after", fault: "cut for 5 s", guest: "destination" },
  { point: "destination.mirror.wait_incoming.before", fault: "kill receiver", guest: "source" },
  { point: "source.ram.start_ram.before", fault: "kill source QEMU", guest: "none" },
  { point: "destination.ram.incoming.after", fault: "kill destination QEMU", guest: "source" },
  { point: "source.switchover.finish_mirrors.after", fault: "cut", guest: "source" },
  { point: "destination.ram.wait_arrived.before", fault: "stop peer", guest: "source" },
  // Accepted, and killed before it said `cont`: nobody but an operator's `resolve` lets it run.
  {
    point: "destination.handover.journal_accepted.after",
    fault: "kill receiver",
    guest: "destination",
  },
  // The guest runs there, and the answer is lost: the sender asks again.
  { point: "destination.handover.resume.after", fault: "cut for 5 s", guest: "destination" },
  { point: "source.end.quit.before", fault: "kill sender", guest: "destination" },
];

Deno.test("these cases have every fault and every phase", async () => {
  const phases = new Set(CASES.map(({ point }) => point.split(".")[1]));
  assertEquals(new Set(PHASES.map(({ name }) => String(name))), phases);
  assertEquals(new Set(CASES.map(({ fault }) => fault)), new Set(FAULTS));
  const points = await listPoints(new AbortController().signal);
  assertEquals(CASES.map(({ point }) => point).filter((point) => !points.includes(point)), []);
});

Deno.test({
  name: "one guest, whole, and nothing left behind after",
  ...requires(...NEEDS),
  fn: async (t) => {
    const results: CaseResult[] = [];
    for (const { point, fault, guest } of CASES) {
      await t.step(`${fault} at ${point}`, async () => {
        const result = await runToEnd(point, fault);
        results.push(result);
        assertEquals(
          [result.problems, result.reached, result.guest],
          [[], true, guest],
          describeCase(result),
        );
      });
    }
    console.log(renderTable(results));
  },
});
