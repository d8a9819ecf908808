// The place of the attacks: a receiver that serves everybody who knows a secret, a guest whose
// migration into it is held in the mirror phase for as long as a test needs it, and what must be true
// of the receiver whatever was done to it meanwhile.

import { assert, assertEquals, assertLess } from "@std/assert";
import { abortable, delay } from "../../src/base/deadline.ts";
import { derivedPublicKey } from "../../src/link/certificate.ts";
import type { Link } from "../../src/link/link.ts";
import { readSecretFile } from "../../src/link/secret_files.ts";
import { dialSecure, targetOfSecret } from "../../src/link/secure.ts";
import { startTls, trustKey } from "../../src/link/tls.ts";
import type { Agent, Line } from "../lib/agents.ts";
import { makeImage, makeNoise } from "../lib/disks.ts";
import { assertGoesOn, attach, makeBootDisk, startGuest } from "../lib/moving.ts";
import { type Receiver, TestSite } from "../lib/site.ts";
import { TempDir } from "../lib/temp.ts";
import type { TestVm } from "../lib/vm.ts";
import { readProcessStatus } from "./process_facts.ts";

const MIB = 2 ** 20;
const HANDSHAKE_MS = 10_000;
const LOOK_MS = 20;
/** For a line of the log that must be there. */
const REASON_MS = 15_000;

export class Lab implements AsyncDisposable {
  readonly site: TestSite;
  readonly source: TestVm;
  readonly secretFile: string;
  readonly secret: Uint8Array;
  readonly receiver: Receiver;
  readonly #resources: AsyncDisposableStack;
  #held: Agent | undefined;

  private constructor(resources: AsyncDisposableStack, parts: {
    site: TestSite;
    source: TestVm;
    secretFile: string;
    secret: Uint8Array;
    receiver: Receiver;
  }) {
    this.#resources = resources;
    this.site = parts.site;
    this.source = parts.source;
    this.secretFile = parts.secretFile;
    this.secret = parts.secret;
    this.receiver = parts.receiver;
  }

  static async create(signal: AbortSignal): Promise<Lab> {
    await using resources = new AsyncDisposableStack();
    const temp = resources.use(await TempDir.create());
    const site = resources.use(await TestSite.create());
    const source = resources.use(await startHeavyGuest(temp, signal));
    const secretFile = temp.file("secret");
    await writeSecret(secretFile);
    const secret = await readSecretFile(secretFile, signal);
    const receiver = await site.receive(["--serve", "--secret-file", secretFile], signal);
    return new Lab(resources.move(), { site, source, secretFile, secret, receiver });
  }

  /** Starts a migration that stays in the mirror phase until `release`. */
  async hold(signal: AbortSignal): Promise<void> {
    this.#held = this.site.start([
      ...["send", "-q", "--to", this.receiver.address, "--secret-file", this.secretFile],
      ...["--qmp", this.source.qmpPath, ...HELD],
    ], signal);
    await waitHeld(this.#held);
  }

  /** Lets the held migration go on, which must come to its end as if nothing had happened. */
  async release(signal: AbortSignal): Promise<void> {
    const { count } = await this.source.readGuest(signal);
    await releaseMirrors(this.source, signal);
    const { account } = await this.#held!.expectEnd(0);
    assertEquals(account!.outcome, "completed");
    await using guest = await this.site.openGuest(account!, signal);
    await assertGoesOn(guest.qmp, { since: count, signal });
    await guest.end(signal);
  }

  connect(): Promise<Deno.TcpConn> {
    return Deno.connect({ hostname: "127.0.0.1", port: this.receiver.port });
  }

  /** A connection with TLS and nothing more: what everybody can have who does not mind whom he meets. */
  async connectTls(signal: AbortSignal): Promise<Link> {
    const trust = trustKey(derivedPublicKey(this.secret));
    return await startTls(await this.connect(), { trust, signal });
  }

  /** A connection of somebody who knows the secret: from here on he may say what he wants. */
  async connectProven(signal: AbortSignal): Promise<Link> {
    const [host, port] = ["127.0.0.1", this.receiver.port];
    const target = targetOfSecret({ host, port }, {
      secret: this.secret,
      authorityPem: null,
    });
    return (await dialSecure(target, { signal, timeoutMs: HANDSHAKE_MS })).link;
  }

  /** The receiver is as good as new for whoever knows the secret. */
  async assertServes(signal: AbortSignal): Promise<void> {
    (await this.connectProven(signal)).close();
  }

  /** What the receiver has said up to now; for `expectWarning`. */
  mark(): number {
    return this.receiver.agent.lines.length;
  }

  /**
   * Waits for the receiver's log to give one of these reasons, `times` times after `mark`.
   * @throws Error with all that the receiver has said
   */
  async expectReason(mark: number, codes: readonly string[], times = 1): Promise<string> {
    const { agent } = this.receiver;
    const count = (until: Line) => {
      const lines = agent.lines.slice(mark, agent.lines.indexOf(until) + 1);
      return lines.filter((line) => codes.includes(reasonOf(line) ?? "")).length;
    };
    const isIt = (line: Line) => codes.includes(reasonOf(line) ?? "") && count(line) >= times;
    const found = Promise.any([agent.waitFor("warning", isIt), agent.waitFor("account", isIt)]);
    try {
      return reasonOf(await abortable(found, AbortSignal.timeout(REASON_MS)))!;
    } catch (cause) {
      const wanted = codes.join(" or ");
      throw new Error(`The log does not say ${wanted}: ${agent.describe()}`, { cause });
    }
  }

  /** Runs `attack` and holds the receiver's memory against what it was before. */
  async bounded(options: { growthMib: number }, attack: () => Promise<void>): Promise<string> {
    const { pid } = this.receiver.agent;
    const before = await readProcessStatus(pid);
    const began = performance.now();
    await attack();
    const tookMs = performance.now() - began;
    const after = await readProcessStatus(pid);
    const grownMib = (after.residentBytes - before.residentBytes) / MIB;
    assertLess(grownMib, options.growthMib, "the receiver's memory grew");
    return `${(tookMs / 1000).toFixed(1)} s, ${grownMib.toFixed(0)} MiB more`;
  }

  /** Waits until the receiver has no more open files than `count`. */
  async settle(count: number, signal: AbortSignal): Promise<void> {
    while ((await readProcessStatus(this.receiver.agent.pid)).openFiles > count) {
      await delay(LOOK_MS, signal);
    }
  }

  async openFiles(): Promise<number> {
    return (await readProcessStatus(this.receiver.agent.pid)).openFiles;
  }

  /** Ends the receiver, which must have nothing of any attack left. */
  async end(): Promise<void> {
    this.receiver.agent.kill("SIGTERM");
    await this.receiver.agent.expectEnd(0);
    await this.site.assertNoTemporaryFiles();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#resources.disposeAsync();
  }
}

/** Why something was refused or failed, when that is what the line is about. */
function reasonOf(line: Line): string | undefined {
  if (line.type === "warning") return line.code;
  return line.type === "account" ? line.error?.code : undefined;
}

/** Options with which a sender stays in the mirror phase: too slow to come to an end. */
export const HELD: readonly string[] = ["--disk-bandwidth", "64K"];

/** A guest with enough on its disks for a mirror to be held in the middle. */
export async function startHeavyGuest(temp: TempDir, signal: AbortSignal): Promise<TestVm> {
  const content = makeNoise(24 * MIB);
  await makeImage(temp.file("data"), { format: "raw", sizeBytes: 24 * MIB, content, signal });
  await makeBootDisk(temp.file("held.raw"), { guest: { diskMask: 1 }, signal });
  const disks = attach(temp.file("held.raw"), temp.file("data"));
  return await startGuest(["-name", "held", ...disks], { signal });
}

/** Waits until a sender is in the middle of its mirrors. */
export async function waitHeld(sender: Agent): Promise<void> {
  await sender.waitFor("step", ({ step }) => step === 3);
}

/** Takes the limit off the mirrors of `source`. */
export async function releaseMirrors(source: TestVm, signal: AbortSignal): Promise<void> {
  const jobs = await source.monitor.execute("query-block-jobs", {}, { signal }) as {
    device: string;
  }[];
  assert(jobs.length > 0, "no mirror is running: the migration was not held");
  for (const { device } of jobs) {
    await source.monitor.execute("block-job-set-speed", { device, speed: 0 }, { signal });
  }
}

/** A new secret for two hosts, in a file that is closed to others. */
export async function writeSecret(path: string): Promise<void> {
  const secret = crypto.getRandomValues(new Uint8Array(32)).toBase64();
  await Deno.writeTextFile(path, secret + "\n", { mode: 0o600, createNew: true });
}
