// `migrate-agent demo`: a real migration on this machine, with nothing but this executable and QEMU.
// The tiny guest, its two disks, a receiver and a sender as processes of their own, and the proof.

import { toText } from "@std/streams/to-text";
import { AgentError } from "../src/base/errors.ts";
import { formatBytes } from "../src/cli/format.ts";
import { makeBootProgram, type TinyGuestStatus } from "../src/demo_guest/guest.ts";
import { endProcess, isAlive } from "../src/guest/proc.ts";
import { TICKET_VARIABLE } from "../src/link/secret_files.ts";
import { QmpClient } from "../src/qmp/client.ts";
import { type DiskProof, proveDisk } from "./demo_proof.ts";
import { readTinyGuest, waitForTurns } from "./demo_guest.ts";

const DISK_BYTES = 256 * 2 ** 20;
/** Of each disk, so that there is something to copy. */
const CONTENT_BYTES = 96 * 2 ** 20;
const WINDOW_BYTES = 64 * 2 ** 20;
/** The guest's turns before the migration and after it, by which it shows that it runs. */
const TURNS = 50;
const STEP_TIMEOUT_MS = 60_000;

/** Shows a migration and what it proves. @throws AgentError when any part of the proof fails */
export async function demo(say: (line: string) => void, signal: AbortSignal): Promise<void> {
  await using stage = await Stage.build();
  const { folder } = stage;
  say(`A tiny guest with two disks, one raw and one qcow2, in ${folder}`);
  await stage.startSource();
  let before: TinyGuestStatus;
  {
    await using qmp = await QmpClient.connect(`${folder}/watch.sock`, { signal });
    before = await waitForTurns(qmp, { more: TURNS, signal: limited(signal) });
  }
  say(`It runs, writes to both disks, and has counted to ${before.count}.`);
  const { port, ticket } = await stage.startReceiver();
  say(`A receiver listens on 127.0.0.1:${port}; now the sender:`);
  const source = await stage.runSender(ticket);

  await using qmp = await QmpClient.connect(`${folder}/run/demo/qmp.sock`, { signal });
  const after = await waitForTurns(qmp, { more: TURNS, signal: limited(signal) });
  await qmp.execute("stop");
  const end = await readTinyGuest(qmp, signal);
  await stage.endGuests();
  const proofs: DiskProof[] = [];
  for (const [name, format] of [["one.raw", "raw"], ["two.qcow2", "qcow2"]] as const) {
    proofs.push(
      await proveDisk({
        source: `${folder}/source/${name}`,
        destination: `${folder}/destination/${name}`,
        format,
        folder,
        lastSourceTurn: source.count,
      }, signal),
    );
  }
  say("The proof:");
  say(`  counter      ${before.count} before, ${source.count} at the switch, ${end.count} after`);
  say(`  memory       ${formatBytes(after.windowBytes)} checked, ${end.badRam} bad pages`);
  say(
    `  disks        ${end.badDisk} sectors that the guest found wrong, ${end.ioErrors} I/O errors`,
  );
  for (const { path, sectors, newer } of proofs) {
    say(
      `  ${path}: ${sectors - newer} of ${sectors} sectors equal at both ends, ` +
        `${newer} written by the guest since the switch`,
    );
  }
  const unbroken = end.count > source.count && source.count >= before.count;
  if (!unbroken || end.badRam + end.badDisk + end.ioErrors > 0) {
    throw new AgentError("demo_failed", "The guest did not come along whole");
  }
  say("The guest went on at the destination as if nothing had happened.");
}

function limited(signal: AbortSignal): AbortSignal {
  return AbortSignal.any([signal, AbortSignal.timeout(STEP_TIMEOUT_MS)]);
}

/** The two "hosts" of the demo: folders, QEMUs and agents, all ended and removed with it. */
class Stage implements AsyncDisposable {
  readonly folder: string;
  readonly #pidFiles: string[];

  private constructor(folder: string) {
    this.folder = folder;
    this.#pidFiles = [`${folder}/source.pid`, `${folder}/run/demo/qemu.pid`];
  }

  static async build(): Promise<Stage> {
    const stage = new Stage(await Deno.makeTempDir({ prefix: "migrate-agent-demo-" }));
    try {
      const { folder } = stage;
      for (const name of ["source", "destination", "run"]) await Deno.mkdir(`${folder}/${name}`);
      const raw = `${folder}/source/one.raw`;
      await makeRawDisk(raw, makeBootProgram({ windowBytes: WINDOW_BYTES, pagesPerTurn: 64 }));
      const blank = `${folder}/blank.raw`;
      await makeRawDisk(blank, new Uint8Array());
      await run(
        "qemu-img",
        "convert",
        "-f",
        "raw",
        "-O",
        "qcow2",
        blank,
        `${folder}/source/two.qcow2`,
      );
      await Deno.remove(blank);
      return stage;
    } catch (error) {
      await stage[Symbol.asyncDispose]();
      throw error;
    }
  }

  async startSource(): Promise<void> {
    const { folder } = this;
    await run(
      "qemu-system-x86_64",
      ...["-name", "demo", "-accel", "tcg", "-m", "128", "-nodefaults", "-display", "none"],
      ...["-drive", `file=${folder}/source/one.raw,format=raw,if=none,id=one`],
      ...["-device", "ide-hd,drive=one,bootindex=0"],
      ...["-drive", `file=${folder}/source/two.qcow2,format=qcow2,if=none,id=two`],
      ...["-device", "ide-hd,drive=two"],
      ...["-qmp", `unix:${folder}/source.sock,server=on,wait=off`],
      ...["-qmp", `unix:${folder}/watch.sock,server=on,wait=off`],
      ...["-pidfile", `${folder}/source.pid`, "-daemonize"],
    );
  }

  /** Where it listens, with its ticket. */
  async startReceiver(): Promise<{ port: number; ticket: string }> {
    const { folder } = this;
    const output = await run(
      ...thisProgram("receive", "--detach", "--json", "--show-ticket"),
      ...["--run-dir", `${folder}/run`, "--disk-dir", `${folder}/destination`],
      ...["--state-dir", `${folder}/state/destination`],
    );
    return JSON.parse(output);
  }

  /** Runs the sender where its progress can be seen; the source guest's state as it was left. */
  async runSender(ticket: string): Promise<TinyGuestStatus> {
    const { folder } = this;
    const [program, ...args] = thisProgram("send", "-q", "--state-dir", `${folder}/state/source`);
    const { code } = await new Deno.Command(program!, {
      args: [...args, "--qmp", `${folder}/source.sock`, "--source-after", "paused"],
      env: { [TICKET_VARIABLE]: ticket },
      stdin: "null",
      stdout: "inherit",
      stderr: "inherit",
    }).output();
    if (code !== 0) throw new AgentError("demo_failed", `The sender ended with exit code ${code}`);
    const signal = AbortSignal.timeout(STEP_TIMEOUT_MS);
    await using qmp = await QmpClient.connect(`${folder}/watch.sock`, { signal });
    return await readTinyGuest(qmp, signal);
  }

  async endGuests(): Promise<void> {
    for (const path of this.#pidFiles) {
      const pid = Number(await readOrNull(path) ?? "0");
      if (pid > 0 && await isAlive(pid)) await endProcess(pid);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.endGuests();
    await Deno.remove(this.folder, { recursive: true });
  }
}

/** The command line that runs this very program. */
function thisProgram(...args: string[]): [string, ...string[]] {
  if (Deno.build.standalone) return [Deno.execPath(), ...args];
  return [Deno.execPath(), "run", "--allow-all", Deno.mainModule, ...args];
}

/** A sparse disk whose first part holds bytes that do not compress, behind `program`. */
async function makeRawDisk(path: string, program: Uint8Array): Promise<void> {
  using file = await Deno.open(path, { write: true, createNew: true });
  const chunk = new Uint8Array(2 ** 16);
  for (let at = 0; at < CONTENT_BYTES; at += chunk.length) {
    crypto.getRandomValues(chunk);
    await writeAll(file, at === 0 ? withStart(chunk, program) : chunk);
  }
  await file.truncate(DISK_BYTES);
}

function withStart(chunk: Uint8Array, start: Uint8Array): Uint8Array {
  const bytes = chunk.slice();
  bytes.set(start);
  return bytes;
}

async function writeAll(file: Deno.FsFile, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length;) at += await file.write(bytes.subarray(at));
}

async function readOrNull(path: string): Promise<string | null> {
  try {
    return await Deno.readTextFile(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}

/** Runs a program to its end; what it printed. @throws AgentError with its own words */
async function run(program: string, ...args: string[]): Promise<string> {
  let child: Deno.ChildProcess;
  try {
    child = new Deno.Command(program, { args, stdin: "null", stdout: "piped", stderr: "piped" })
      .spawn();
  } catch (cause) {
    throw new AgentError("demo_needs", `The demo needs '${program}', which is not in PATH`, {
      kind: "refused",
      cause,
      hint: "Debian: apt-get install qemu-system-x86 qemu-utils",
    });
  }
  const [stdout, stderr, { success }] = await Promise.all([
    toText(child.stdout),
    toText(child.stderr),
    child.status,
  ]);
  if (success) return stdout;
  throw new AgentError("demo_failed", `'${program}' failed: ${stderr.trim()}`);
}
