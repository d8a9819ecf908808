// Network backends: `-netdev`, `-nic`, `-net`. Only what this host's operator allows is attached to
// the host's network; a program of the host is never started for a peer.

import { quote } from "../../base/errors.ts";
import type { Destination } from "./destination.ts";
import { type Option, refuse } from "./options.ts";
import type { Pair } from "./keyval.ts";

/** Keys by backend that name nothing of the host. */
const KEYS: ReadonlyMap<string, ReadonlySet<string>> = new Map(
  Object.entries({
    user: "net host ipv4 ipv6 restrict hostname dhcpstart dns dnssearch domainname ip " +
      "ipv6-net ipv6-prefix ipv6-prefixlen ipv6-host ipv6-dns bootfile tftp-server-name",
    tap: "ifname sndbuf vnet_hdr vhost vhostforce queues poll-us",
    bridge: "",
    hubport: "hubid netdev",
    nic: "netdev macaddr model name addr vectors",
    none: "",
  }).map(([type, keys]) => [type, new Set(["type", "id", ...keys.split(" ")])]),
);
/** What `-nic` says about the guest's side. */
const NIC_KEYS = new Set(["model", "mac", "addr", "vectors", "name"]);
const PASSED_FDS = new Set(["fd", "fds", "vhostfd", "vhostfds"]);

export function checkNetwork(option: Option, destination: Destination): Option[] {
  const args = option.args!;
  const type = args.find("type");
  const keys = KEYS.get(type?.value ?? "");
  const id = args.get("id") ?? "ID";
  if (!keys) {
    if (type?.trusted) return [option];
    refuse(
      option,
      `has the backend ${quote(type?.value ?? "")}, which is not allowed`,
      `choose another with --override netdev.${id}.type=VALUE`,
    );
  }
  for (const pair of args.pairs) {
    const known = keys.has(pair.key) || (option.name === "nic" && NIC_KEYS.has(pair.key)) ||
      pair.key.startsWith("dnssearch.");
    if (pair.trusted || known) continue;
    checkPair(option, { pair, type: type!.value, id, destination });
  }
  if (type!.value === "tap") requireNoScript(option, id);
  if (type!.value === "bridge" && args.get("br") === undefined) {
    checkBridge(option, { bridge: "br0", id, destination }); // QEMU's default
  }
  return [option];
}

function checkPair(
  option: Option,
  context: { pair: Pair; type: string; id: string; destination: Destination },
): void {
  const { pair: { key, value }, type, id, destination } = context;
  const override = `--override netdev.${id}.${key}`;
  if (key === "br" && (type === "bridge" || type === "tap")) {
    checkBridge(option, { bridge: value, id, destination });
  } else if ((key === "script" || key === "downscript") && type === "tap") {
    if (value !== "no") {
      refuse(
        option,
        "runs a program of this host",
        `set ${override}=no, or to a script of this host`,
      );
    }
  } else if (PASSED_FDS.has(key)) {
    refuse(
      option,
      `uses an open file of the source's process (${quote(key)})`,
      `take it away with ${override}= and name an interface of this host with ` +
        `--override netdev.${id}.ifname=NAME`,
    );
  } else if (key.startsWith("hostfwd") && type === "user") {
    refuse(option, "opens a port of this host", `if that is meant, set ${override}=VALUE`);
  } else {
    refuse(option, `has the part ${quote(key)}, which is not allowed`, `set ${override}=VALUE`);
  }
}

function checkBridge(
  option: Option,
  { bridge, id, destination }: { bridge: string; id: string; destination: Destination },
): void {
  if (destination.policy.bridges.includes(bridge)) return;
  refuse(
    option,
    `attaches the guest to the bridge ${quote(bridge)}`,
    `give --allow-bridge ${bridge}, or set --override netdev.${id}.br=BRIDGE`,
  );
}

/** A tap without `script=` makes QEMU run its default, /etc/qemu-ifup; also one with `br=` (7.2). */
function requireNoScript(option: Option, id: string): void {
  for (const key of ["script", "downscript"]) {
    if (option.args!.get(key) !== undefined) continue;
    refuse(
      option,
      `runs a program of this host (QEMU's default ${key})`,
      `set --override netdev.${id}.${key}=no`,
    );
  }
}
