// Two Xen hosts with a cable between them: `await using pair = await XenPair.boot({ signal });`
// The cable is a unix socket between the two QEMU processes; nothing of it is seen outside them.

import { TempDir } from "../../lib/temp.ts";
import { XenHost } from "./xen_host.ts";

export interface XenPairOptions {
  /** As for a host; the same for both. */
  share?: string;
  signal: AbortSignal;
}

export class XenPair implements AsyncDisposable {
  readonly a: XenHost;
  readonly b: XenHost;
  /** The hosts' addresses on the link; private to it, so that every test can have the same. */
  static readonly addresses = { a: "192.0.2.1", b: "192.0.2.2" } as const;
  readonly #temp: TempDir;

  private constructor(a: XenHost, b: XenHost, temp: TempDir) {
    this.a = a;
    this.b = b;
    this.#temp = temp;
  }

  /** Boots both at once. Nothing is left behind when it throws. */
  static async boot(options: XenPairOptions): Promise<XenPair> {
    const temp = await TempDir.create();
    const path = temp.file("link");
    const { a, b } = XenPair.addresses;
    const stop = new AbortController();
    const common = { ...options, signal: AbortSignal.any([options.signal, stop.signal]) };
    const starting: { booted: Promise<XenHost> }[] = [];
    try {
      // One after the other: QEMU tries but once to connect.
      const plugs = [{ path, listens: true, address: a }, { path, listens: false, address: b }];
      for (const plug of plugs) {
        starting.push(await XenHost.start({ ...common, name: plug.listens ? "a" : "b", plug }));
      }
      const [first, second] = await Promise.all(starting.map(({ booted }) => booted));
      return new XenPair(first!, second!, temp);
    } catch (error) {
      stop.abort(error);
      for (const { booted } of starting) {
        await booted.then((host) => host[Symbol.asyncDispose](), () => {}); // it cleaned up itself
      }
      await temp[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** From now on every frame between the hosts is dropped, without a reset and with the carrier up. */
  async cut(signal: AbortSignal): Promise<void> {
    await this.a.cut(signal);
  }

  /** Ends a cut. */
  async restore(signal: AbortSignal): Promise<void> {
    await this.a.restore(signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([this.a[Symbol.asyncDispose](), this.b[Symbol.asyncDispose]()]);
    await this.#temp[Symbol.asyncDispose]();
  }
}
