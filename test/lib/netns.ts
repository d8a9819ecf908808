// Two hosts on one machine: network namespaces joined by a switch in a third, so that a test can cut
// the link the hard way. Needs root (`...requires("root", "ip")`) and nothing but iproute2.
//
//   left [eth0] ---- [to_left] bridge [to_right] ---- [eth0] right
//
// A cut takes a port off the bridge: both hosts keep their carrier and get no refusal and no reset,
// frames just vanish, as with a dead switch or a firewall that drops.

import { run } from "./command.ts";

export interface TestHost {
  /** Name of its network namespace. */
  netns: string;
  /** Its IPv4 address on the link. */
  address: string;
}

let made = 0;

export class TestNet implements AsyncDisposable {
  readonly left: TestHost;
  readonly right: TestHost;
  readonly #switch: string;

  private constructor() {
    const prefix = `ma${Deno.pid}n${++made}`;
    // Private to the namespaces, so that every test can have the same (RFC 5737, TEST-NET-1).
    this.left = { netns: `${prefix}l`, address: "192.0.2.1" };
    this.right = { netns: `${prefix}r`, address: "192.0.2.2" };
    this.#switch = `${prefix}s`;
  }

  /** Makes the namespaces and joins them; nothing is left behind when it throws. */
  static async create(signal: AbortSignal): Promise<TestNet> {
    const net = new TestNet();
    try {
      await net.#build(signal);
      return net;
    } catch (error) {
      await net[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** `argv` as a command that runs on `host`; the process id is the program's own. */
  inside(host: TestHost, argv: readonly string[]): string[] {
    return ["ip", "netns", "exec", host.netns, ...argv];
  }

  /** From now on every frame between the hosts is dropped. Can be repeated. */
  async cut(signal: AbortSignal): Promise<void> {
    await run(["ip", "-n", this.#switch, "link", "set", "to_right", "nomaster"], signal);
  }

  /** Ends a cut. Can be repeated. */
  async restore(signal: AbortSignal): Promise<void> {
    await run(["ip", "-n", this.#switch, "link", "set", "to_right", "master", "bridge"], signal);
  }

  /** Deletes the namespaces and with them the link. What still runs in them loses its network. */
  async [Symbol.asyncDispose](): Promise<void> {
    const there = new Set((await this.#listNamespaces()).split("\n").map((l) => l.split(" ")[0]));
    for (const name of [this.left.netns, this.right.netns, this.#switch]) {
      if (there.has(name)) await run(["ip", "netns", "delete", name], NEVER);
    }
  }

  async #build(signal: AbortSignal): Promise<void> {
    const batch = (netns: string, lines: string[]) =>
      run(["bash", "-c", `ip -n "$1" -batch - <<< "$2"`, "ip", netns, lines.join("\n")], signal);
    await run(["ip", "netns", "add", this.#switch], signal);
    await batch(this.#switch, ["link add bridge type bridge", "link set bridge up"]);
    for (const [port, host] of [["to_left", this.left], ["to_right", this.right]] as const) {
      await run(["ip", "netns", "add", host.netns], signal);
      await batch(host.netns, [
        `link add eth0 type veth peer name ${port} netns ${this.#switch}`,
        "link set lo up",
        `address add ${host.address}/24 dev eth0`,
        "link set eth0 up",
      ]);
      await batch(this.#switch, [`link set ${port} master bridge`, `link set ${port} up`]);
    }
  }

  #listNamespaces(): Promise<string> {
    return run(["ip", "netns", "list"], NEVER);
  }
}

/** Cleaning up is not cancelled. */
const NEVER = new AbortController().signal;
