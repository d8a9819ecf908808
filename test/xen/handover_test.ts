// A receiver that is killed once it has accepted a Xen guest, before its sender knows. `status` names the
// command for each host; `resolve` puts the guest in one place, the destination, and can be repeated.

import { assert, assertEquals } from "@std/assert";
import { abortable } from "../../src/base/deadline.ts";
import {
  assertGoesOn,
  assertInOrder,
  countOn,
  DISK_DIR,
  prepareHosts,
  runAgent,
  startMove,
} from "./lib/xen_agents.ts";
import { readStatus, UNCERTAIN } from "./lib/xen_faults.ts";
import { startGuest } from "./lib/xen_guest.ts";
import { requiresXen, type XenHost } from "./lib/xen_host.ts";
import { XenPair } from "./lib/xen_pair.ts";

const BOOT_MS = 240_000;
const CASE_MS = 400_000;

/** Where the receiver is killed. */
const POINTS = [
  "destination.handover.journal_accepted.after",
  "destination.handover.resume.after",
  "destination.end.journal_running.before",
];

Deno.test({
  name: "Xen: a receiver that is killed after it has accepted the guest leaves it to `resolve`",
  ...requiresXen(),
  async fn(t) {
    const boot = AbortSignal.timeout(BOOT_MS);
    await using pair = await XenPair.boot({ signal: boot });
    await prepareHosts(pair, boot);
    const disk = { path: "/var/g1.img", format: "raw", vdev: "hda", backend: "qdisk" } as const;
    await startGuest(pair.a, { name: "g1", disks: [disk], signal: boot });
    let [from, to] = [pair.a, pair.b];
    for (const point of POINTS) {
      await t.step(`killed at ${point}`, async () => {
        await killReceiver({ from, to, point, signal: AbortSignal.timeout(CASE_MS) });
      });
      [from, to] = [to, from];
    }
  },
});

async function killReceiver(
  { from, to, point, signal }: {
    from: XenHost;
    to: XenHost;
    point: string;
    signal: AbortSignal;
  },
): Promise<void> {
  const since = countOn(from);
  const { sender, receiver } = await startMove({
    from,
    to,
    guest: "g1",
    send: ["-q", "--handover-timeout", "3s"],
    receive: ["--fail-at", `${point}:kill`],
    signal,
  });
  const [sent] = await abortable(
    Promise.all([sender.agent.ended, receiver.agent.ended]),
    signal,
  );
  const said = `${sender.agent.describe()}\n${receiver.agent.describe()}`;
  // The answer may have been on its way already.
  assert(sent.code === UNCERTAIN || point.includes(".end.") && sent.code === 0, said);

  // Each host also has journals of those before, which claim nothing any more.
  const there = (await readStatus(to, signal)).find(({ state }) => state === "accepted");
  assertEquals(there?.agent_pid, null, said);
  const id = there!.migration_id;
  const findHere = async () =>
    (await readStatus(from, signal)).find(({ migration_id }) => migration_id === id);
  const resolve = (host: XenHost, ...words: string[]) =>
    runAgent(host, ["resolve", id, ...words], signal);
  if (sent.code === UNCERTAIN) {
    const here = await findHere();
    assertEquals([here?.state, here?.run_state], ["handover_sent", "suspend"]);
    assertEquals((await resolve(from)).code, UNCERTAIN, "nobody there can be asked");
    assertEquals((await findHere())?.run_state, "suspend");
  }
  for (const _ of ["once", "and again"]) {
    const { code, lines } = await resolve(to);
    assertEquals([code, lines[0]?.state, lines[0]?.run_state], [0, "running", "running"]);
  }
  if (sent.code === UNCERTAIN) {
    const { code, lines } = await resolve(from, "--keep", "destination");
    assertEquals([code, lines[0]?.state], [0, "handed_over"], JSON.stringify(lines));
  }
  // Nothing is left to be put in order: there is no such journal any more.
  const [last] = (await resolve(from)).lines as { code?: string }[];
  assertEquals(last?.code, "no_migration", JSON.stringify(last));

  await assertInOrder(from, { domains: [], signal });
  await assertInOrder(to, { domains: ["g1"], signal });
  await assertGoesOn(to, { since, signal });
  await from.check(`rm -rf ${DISK_DIR}/*`, { signal });
}
