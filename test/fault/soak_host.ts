// One host of the soak: what a Host is, with a receiver that serves all the time and must not grow.

import type { Agent, Line } from "../lib/agents.ts";
import type { TestHost } from "../lib/netns.ts";
import { Host } from "./host.ts";

/** What a process holds. */
export interface Footprint {
  residentBytes: number;
  descriptors: number;
}

export class SoakHost implements AsyncDisposable {
  readonly name: string;
  readonly host: Host;
  readonly receiver: Agent;
  /** `HOST:PORT` of the receiver. */
  readonly address: string;

  private constructor(name: string, parts: { host: Host; receiver: Agent; address: string }) {
    this.name = name;
    this.host = parts.host;
    this.receiver = parts.receiver;
    this.address = parts.address;
  }

  static async create(
    name: string,
    options: { netns: TestHost; secretFile: string; signal: AbortSignal },
  ): Promise<SoakHost> {
    const { netns, secretFile, signal } = options;
    const host = await Host.create({ netns, fullDisk: false }, signal);
    try {
      const receiver = host.start([
        ...["receive", "--serve", "--listen", `${netns.address}:0`, "--secret-file", secretFile],
        ...["--disk-dir", host.disks, "--run-dir", host.run],
      ], signal);
      const { port } = await receiver.waitFor("listening");
      return new SoakHost(name, { host, receiver, address: `${netns.address}:${port}` });
    } catch (error) {
      await host[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Waits until the receiver has nothing under way that began after its line number `since`. */
  async waitUntilIdle(since: number): Promise<void> {
    const begun = this.receiver.lines.slice(since).flatMap((line: Line) =>
      line.type === "started" ? [line.migration_id] : []
    );
    for (const id of begun) {
      await this.receiver.waitFor("account", (line) => line.migration_id === id);
    }
  }

  async footprint(): Promise<Footprint> {
    const { pid } = this.receiver;
    const status = await Deno.readTextFile(`/proc/${pid}/status`);
    const residentKiB = Number(/^VmRSS:\s*(\d+) kB$/m.exec(status)![1]);
    const descriptors = [...Deno.readDirSync(`/proc/${pid}/fd`)].length;
    return { residentBytes: residentKiB * 1024, descriptors };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.receiver.kill("SIGTERM");
    await this.receiver.ended;
    await this.host[Symbol.asyncDispose]();
  }
}
