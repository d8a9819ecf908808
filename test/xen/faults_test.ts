// What goes wrong while a Xen guest moves (lib/xen_faults.ts). Afterwards, and after `resolve` where an
// agent was killed, the guest runs in one place and finds its disk and memory whole, xl can work with
// both hosts again, and the next try gets as far as this one.

import { requiresXen } from "./lib/xen_host.ts";
import {
  assertGoesOn,
  assertInOrder,
  countOn,
  DISK_DIR,
  moveDomain,
  prepareHosts,
} from "./lib/xen_agents.ts";
import {
  cancel,
  cut,
  type Fault,
  killDeviceModel,
  putInOrder,
  runFault,
  signalProgram,
} from "./lib/xen_faults.ts";
import { destroyGuest, startGuest } from "./lib/xen_guest.ts";
import { XenPair } from "./lib/xen_pair.ts";

const BOOT_MS = 240_000;
const CASE_MS = 400_000;
const CANCELLED = 5;
/** Room for a part of the guest's disk. */
const SMALL_DISK = "/var/small";
/** The disks go straight to qemu-nbd, and not through the agents' connection. */
const DIRECT = { send: ["--insecure-nbd"], receive: ["--insecure-nbd"] };

const MIRRORED = "source.mirror.wait_ready.after";
const BEFORE_SUSPENSION = "source.ram.wait_stopped.before";
const SUSPENDED = "source.switchover.finish_mirrors.before";
const ASKED = "source.handover.hand_over.before";

interface Case extends Fault {
  /** The fault itself has ended it: it is started anew. */
  losesGuest?: boolean;
}

const CASES: readonly Case[] = [
  { name: "cancelled before suspension", at: BEFORE_SUSPENSION, strike: cancel, code: CANCELLED },
  { name: "cancelled while suspended", at: SUSPENDED, strike: cancel, code: CANCELLED },
  { name: "refused when xl has asked", at: "destination.switchover.wait_handover.before:error" },
  { name: "the sender is killed before suspension", at: `${BEFORE_SUSPENSION}:kill` },
  { name: "the sender is killed while suspended", at: `${SUSPENDED}:kill` },
  {
    name: "the sender is killed when xl has asked",
    at: `${ASKED}:kill`,
    send: ["--handover-timeout", "5s"], // for which the receiver waits to be asked
  },
  { name: "the receiver is killed in the memory", at: "destination.ram.wait_arrived.before:kill" },
  {
    name: "the receiver is killed when it is loaded",
    at: "destination.switchover.load.after:kill",
  },
  {
    name: "xl migrate is killed before",
    at: BEFORE_SUSPENSION,
    strike: signalProgram("a", "[/]xl migrate -s"),
  },
  {
    name: "xl migrate is killed while suspended",
    at: SUSPENDED,
    strike: signalProgram("a", "[/]xl migrate -s"),
  },
  {
    name: "xl migrate-receive is killed",
    at: BEFORE_SUSPENSION,
    strike: signalProgram("b", "[/]xl migrate-receive"),
  },
  { name: "qemu-nbd is killed", at: MIRRORED, strike: signalProgram("b", "^[q]emu-nbd ") },
  {
    name: "qemu-nbd hangs when it is told to end",
    at: "destination.switchover.stop_exports.before",
    strike: signalProgram("b", "^[q]emu-nbd ", "STOP"),
    error: "nbd_server_hangs",
  },
  { name: "the link is cut in the mirror", at: "source.mirror.wait_ready.before", strike: cut },
  { name: "the link is cut in the memory", at: BEFORE_SUSPENSION, strike: cut },
  { name: "the link is cut while suspended", at: SUSPENDED, strike: cut },
  {
    name: "the link is cut in the mirror, disks direct",
    at: "source.mirror.wait_ready.before",
    strike: cut,
    ...DIRECT,
  },
  {
    name: "the link is cut while suspended, disks direct",
    at: SUSPENDED,
    strike: cut,
    ...DIRECT,
  },
  {
    name: "the destination's disk is full",
    at: "source.mirror.start_mirrors.before",
    receive: ["--disk-dir", SMALL_DISK],
    strike: ({ pair, signal }) =>
      pair.b.run(`dd if=/dev/zero of=${SMALL_DISK}/rest bs=64k`, { signal }),
  },
  {
    name: "the device model that was loaded dies",
    at: "destination.switchover.load.after",
    strike: killDeviceModel("b", "g1--incoming"),
    error: "device_model_ended",
  },
  {
    name: "the device model that was loaded dies when the guest is accepted",
    at: "destination.handover.resume.before",
    strike: killDeviceModel("b", "g1--incoming"),
    error: "handover_refused",
  },
  {
    name: "the source's device model dies before suspension",
    at: MIRRORED,
    strike: killDeviceModel("a", "g1"),
    error: "source_qemu_ended",
    losesGuest: true,
  },
  {
    name: "the source's device model dies while suspended",
    at: SUSPENDED,
    strike: killDeviceModel("a", "g1"),
    error: "source_qemu_ended",
    losesGuest: true,
  },
];

Deno.test({
  name: "Xen: after each fault the guest runs in one place, and can move",
  ...requiresXen(),
  async fn(t) {
    const boot = AbortSignal.timeout(BOOT_MS);
    await using pair = await XenPair.boot({ signal: boot });
    const { a, b } = pair;
    await prepareHosts(pair, boot);
    await b.check(`mkdir ${SMALL_DISK}; mount -t tmpfs -o size=9m small ${SMALL_DISK}`, {
      signal: boot,
    });
    const disk = { path: "/var/g1.img", format: "raw", vdev: "hda", backend: "qdisk" } as const;
    const start = (signal: AbortSignal) => startGuest(a, { name: "g1", disks: [disk], signal });
    await start(boot);

    for (const fault of CASES) {
      await t.step(fault.name, async () => {
        const signal = AbortSignal.timeout(CASE_MS);
        await runFault(pair, { fault, signal });
        await putInOrder(pair, signal);
        await b.check(`rm -rf ${DISK_DIR}/* ${SMALL_DISK}/*`, { signal });
        await assertInOrder(b, { domains: [], signal });
        if (fault.losesGuest) {
          await destroyGuest(a, { name: "g1", signal });
          await assertInOrder(a, { domains: [], signal });
          await start(signal);
        } else {
          await assertInOrder(a, { domains: ["g1"], signal });
          await assertGoesOn(a, { since: countOn(a), signal });
        }
      });
    }

    await t.step("and it moves", async () => {
      const signal = AbortSignal.timeout(CASE_MS);
      await moveDomain({ from: a, to: b, guest: "g1", signal });
      await assertGoesOn(b, { since: countOn(a), signal });
    });
  },
});
