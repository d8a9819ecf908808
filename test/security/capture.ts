// Writes down every packet on one interface of a host, and finds text in it. Uses tcpdump.

import { abortable } from "../../src/base/deadline.ts";
import { type TestHost, TestNet } from "../lib/netns.ts";

export class Capture implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #path: string;
  readonly #stderr: Promise<string>;

  private constructor(child: Deno.ChildProcess, path: string, stderr: Promise<string>) {
    this.#child = child;
    this.#path = path;
    this.#stderr = stderr;
  }

  /** Starts to write packets of `host`'s link to `path`; from its return on none is missed. */
  static async start(
    net: TestNet,
    { host, path, signal }: { host: TestHost; path: string; signal: AbortSignal },
  ): Promise<Capture> {
    // A buffer of 64 MiB: a packet that tcpdump drops cannot be searched.
    const [program, ...args] = net.inside(host, [
      ...["tcpdump", "-i", "eth0", "-w", path, "-s", "0", "-B", "65536", "-U", "-Z", "root"],
    ]);
    const child = new Deno.Command(program!, {
      args,
      stdin: "null",
      stdout: "null",
      stderr: "piped",
    }).spawn();
    const listening = Promise.withResolvers<void>();
    const stderr = collect(child, (text) => text.includes("listening on") && listening.resolve());
    stderr.then((text) => listening.reject(new Error(`tcpdump ended: ${text}`)));
    await abortable(listening.promise, signal);
    return new Capture(child, path, stderr);
  }

  /** Stops; how often each of `texts` is in what was captured, and how many bytes that was. */
  async search(texts: readonly string[]): Promise<{ bytes: number; found: number[] }> {
    this.#child.kill("SIGINT");
    const said = await this.#stderr;
    const dropped = Number(/(\d+) packets? dropped by kernel/.exec(said)?.[1] ?? NaN);
    if (dropped !== 0) throw new Error(`The capture is not whole: ${said}`);
    const { size } = await Deno.stat(this.#path);
    const found: number[] = [];
    for (const text of texts) {
      const { stdout } = await new Deno.Command("grep", {
        args: ["--only-matching", "--text", "--fixed-strings", "--", text, this.#path],
      }).output();
      found.push(new TextDecoder().decode(stdout).split("\n").length - 1);
    }
    return { bytes: size, found };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#child.kill("SIGKILL");
    } catch (error) {
      if (!(error instanceof TypeError)) throw error; // it has ended already
    }
    await this.#stderr;
    await this.#child.status;
  }
}

async function collect(child: Deno.ChildProcess, see: (text: string) => unknown): Promise<string> {
  let all = "";
  for await (const text of child.stderr.pipeThrough(new TextDecoderStream())) {
    all += text;
    see(all);
  }
  return all;
}
