// Where a receiver lets guests land, by what runs them: parameters of one kind never reach what was
// made for the other.

import { AgentError } from "../src/base/errors.ts";
import type { DestinationHost, DestinationPlan } from "../src/guest/destination.ts";
import type { GuestParams } from "../src/guest/params.ts";
import type { XenHost } from "../src/xen/destination.ts";
import type { Landing, LandingOptions } from "./landing.ts";
import { QemuLanding } from "./qemu_landing.ts";
import { XenLanding } from "./xen_landing.ts";

export interface LandingHosts {
  host: DestinationHost;
  /** Left out: this receiver was told how to come to a QEMU, and takes no Xen domain. */
  xen?: XenHost;
}

/** Checks everything that can be checked; changes nothing. @throws AgentError (kind refused) */
export function planLanding(
  params: GuestParams,
  { hosts, signal }: { hosts: LandingHosts; signal: AbortSignal },
): Promise<DestinationPlan> {
  return params.hypervisor === "xen"
    ? xenOf(hosts).plan(params, signal)
    : hosts.host.plan(params, signal);
}

/** Makes what was planned. */
export async function land(
  params: GuestParams,
  options: LandingOptions & { hosts: LandingHosts; signal: AbortSignal },
): Promise<Landing> {
  const { hosts } = options;
  return params.hypervisor === "xen"
    ? new XenLanding(await xenOf(hosts).start(params, options), options)
    : new QemuLanding(await hosts.host.start(params, options), options);
}

function xenOf({ xen }: LandingHosts): XenHost {
  if (xen) return xen;
  throw new AgentError(
    "wrong_hypervisor",
    "The guest is a Xen domain, and this receiver was told how to come to a QEMU",
    {
      kind: "refused",
      side: "destination",
      hint: "start the receiver without --adopt-qmp and --launch-command",
    },
  );
}
