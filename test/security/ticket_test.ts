// The ticket and the shared secret: who gets to see them, what they are good for and how often, and
// what lies in files while a guest is on its way.

import { assert, assertEquals, assertMatch } from "@std/assert";
import { delay } from "../../src/base/deadline.ts";
import { agentCommand, type AgentEnd } from "../lib/agents.ts";
import { run } from "../lib/command.ts";
import { attach, makeBootDisk, startGuest } from "../lib/moving.ts";
import { requires } from "../lib/requires.ts";
import { type Receiver, TestSite } from "../lib/site.ts";
import { TempDir } from "../lib/temp.ts";
import type { TestVm } from "../lib/vm.ts";
import { HELD, releaseMirrors, startHeavyGuest, waitHeld, writeSecret } from "./lab.ts";
import { listModes, readPublicFace } from "./process_facts.ts";

const limit = () => AbortSignal.timeout(90_000);
const REFUSED = 3;
const USAGE = 2;
const LINK_LOST = 7;

async function modeOf(path: string): Promise<string> {
  return ((await Deno.lstat(path)).mode! & 0o777).toString(8);
}

/** Every text in which a ticket must not be. `ticket` without its first characters, which are public. */
function assertSecret(ticket: string, places: Record<string, string>): void {
  for (const [where, text] of Object.entries(places)) {
    for (const part of [ticket.slice(0, 40), ticket.slice(40, 80), ticket.slice(-40)]) {
      assert(!text.includes(part), `the ticket is in ${where}`);
    }
  }
}

Deno.test({
  name: "security: nobody sees the ticket, and keys lie in private folders and go with them",
  ...requires("qemu-system-x86_64", "qemu-img"),
  async fn() {
    const signal = limit();
    await using temp = await TempDir.create();
    await using site = await TestSite.create();
    await using source = await startHeavyGuest(temp, signal);
    const ticketFile = temp.file("ticket");
    const receiver = await site.receive(["--ticket-file", ticketFile], signal);
    assertEquals(await modeOf(ticketFile), "600");
    const ticket = (await Deno.readTextFile(ticketFile)).trim();
    assertMatch(ticket, /^mat\d+_[\w-]{80,}$/);
    const sender = site.start(
      ["send", "-q", "--ticket-file", ticketFile, "--qmp", source.qmpPath, ...HELD],
      signal,
    );
    await waitHeld(sender);

    const modes = await listModes(site.tmp);
    const keys = Object.keys(modes).filter((path) => path.endsWith("keys.psk"));
    assertEquals(keys.length, 1, `the destination's QEMU needs its key: ${JSON.stringify(modes)}`);
    for (const [path, mode] of Object.entries(modes)) {
      const isFolder = !path.includes("/");
      const isSocket = path.endsWith(".sock"); // closed to others by its folder
      if (!isSocket) assertEquals(mode, isFolder ? "700" : "600", path);
    }
    const key = (await Deno.readTextFile(`${site.tmp}/${keys[0]}`)).split(":")[1]!.trim();
    assertMatch(key, /^[0-9a-f]{64}$/);
    for (const secret of [key, ticket.slice(40)]) {
      for (const pid of [sender.pid, receiver.agent.pid, source.pid, await site.qemuPid("held")]) {
        assert(!(await readPublicFace(pid)).includes(secret), `process ${pid} shows a secret`);
      }
    }

    await refuseSecondUse(site, { temp, ticketFile, receiver, signal });

    await releaseMirrors(source, signal);
    const ends = [await sender.expectEnd(0), await receiver.agent.expectEnd(0)];
    for (const { lines } of ends) {
      const said = JSON.stringify(lines);
      assertSecret(ticket, { "an agent's lines": said });
      assert(!said.includes(key), "the key of the disks is in an agent's lines");
    }
    await site.assertNoTemporaryFiles();
  },
});

Deno.test({
  name: "security: a detached receiver shows its ticket once, when asked to, and never logs it",
  ...requires("qemu-system-x86_64"),
  async fn() {
    const signal = limit();
    await using site = await TestSite.create();
    const receive = (...args: string[]) =>
      run([
        ...agentCommand(),
        ...["receive", "--detach", "--json", "--run-dir", site.run, "--disk-dir", site.disks],
        ...["--state-dir", site.stateDirs.destination, ...args],
      ], signal);
    const shown = JSON.parse(await receive("--show-ticket"));
    try {
      assertMatch(shown.ticket, /^mat\d+_/);
      assertSecret(shown.ticket, {
        "the log": await Deno.readTextFile(shown.log),
        "the process list": await readPublicFace(shown.pid),
      });
      assertEquals([await modeOf(shown.log), await modeOf(site.run)], [
        "600",
        await modeOf(site.run),
      ]);
    } finally {
      Deno.kill(shown.pid, "SIGTERM");
    }
    const kept = JSON.parse(await receive("--ticket-file", site.file("ticket")));
    Deno.kill(kept.pid, "SIGTERM");
    assertEquals(kept.ticket, null);
  },
});

/** Another guest's sender comes with the ticket that is in use. */
async function refuseSecondUse(
  site: TestSite,
  { temp, ticketFile, receiver, signal }: {
    temp: TempDir;
    ticketFile: string;
    receiver: Receiver;
    signal: AbortSignal;
  },
): Promise<void> {
  await makeBootDisk(temp.file("other"), { signal });
  await using other = await startGuest(["-name", "other", ...attach(temp.file("other"))], {
    signal,
  });
  const args = ["send", "-q", "--ticket-file", ticketFile, "--qmp", other.qmpPath];
  const { code, error } = await site.start(args, signal).ended;
  assertEquals([error?.code, code], ["proof_refused", REFUSED]);
  await receiver.agent.waitFor("warning", (line) => line.code === "secret_used");
}

interface Case {
  name: string;
  receive(file: string): string[];
  send(file: string, address: string): string[];
  /** Before the sender starts. */
  prepare?(
    parts: { site: TestSite; source: TestVm; file: string; address: string; signal: AbortSignal },
  ): Promise<void>;
  /** Either of several where it depends on what the sender sees first. */
  code: string | readonly string[];
  exit: number;
  /** What the receiver's log says; null when it hears of nothing. */
  reason: string | null;
}

const ticketCase = {
  receive: (file: string) => ["--ticket-file", file],
  send: (file: string) => ["--ticket-file", file],
  exit: REFUSED,
};

const CASES: readonly Case[] = [
  {
    ...ticketCase,
    name: "a ticket that has expired",
    receive: (file) => ["--ticket-file", file, "--ticket-for", "1s"],
    prepare: async ({ signal }) => await delay(1100, signal),
    code: "proof_refused",
    reason: "secret_expired",
  },
  {
    ...ticketCase,
    name: "the ticket of another receiver",
    send: (file, address) => ["--ticket-file", `${file}.other`, "--to", address],
    async prepare({ site, file, signal }) {
      const other = await site.receive(["--ticket-file", `${file}.other`], signal);
      other.agent.kill("SIGTERM");
      await other.agent.ended;
    },
    code: "certificate_refused",
    reason: "tls_refused",
  },
  {
    ...ticketCase,
    name: "a ticket file that the group may write to",
    prepare: ({ file }) => Deno.chmod(file, 0o660),
    code: "secret_file_open",
    exit: USAGE,
    reason: null,
  },
  {
    ...ticketCase,
    name: "a ticket file that everybody may read",
    prepare: ({ file }) => Deno.chmod(file, 0o604),
    code: "secret_file_open",
    exit: USAGE,
    reason: null,
  },
  {
    ...ticketCase,
    name: "a ticket that was cut off",
    prepare: async ({ file }) => {
      const text = await Deno.readTextFile(file);
      await Deno.writeTextFile(file, text.slice(0, -10));
    },
    code: "bad_ticket",
    exit: USAGE,
    reason: null,
  },
  {
    ...ticketCase,
    name: "a sender without encryption, a receiver with",
    send: (_file, address) => ["--insecure", "--to", address],
    // The receiver's refusal, or the end of the connection while the sender still speaks.
    code: ["not_migrate_agent", "connection_lost"],
    exit: LINK_LOST,
    reason: "peer_without_tls",
  },
  {
    ...ticketCase,
    name: "a sender with encryption, a receiver without",
    receive: () => ["--insecure"],
    send: (file, address) => ["--ticket-file", `${file}.other`, "--to", address],
    async prepare({ site, file, signal }) {
      const other = await site.receive(["--ticket-file", `${file}.other`], signal);
      other.agent.kill("SIGTERM");
      await other.agent.ended;
    },
    code: "peer_without_tls",
    reason: "not_migrate_agent",
  },
];

Deno.test({
  name: "security: tickets that are no good",
  ...requires("qemu-system-x86_64", "qemu-img"),
  async fn(t) {
    const signal = limit();
    await using temp = await TempDir.create();
    await using source = await startHeavyGuest(temp, signal);
    for (const { name, receive, send, prepare, code, exit, reason } of CASES) {
      await t.step(name, async () => {
        await using site = await TestSite.create();
        const file = site.file("ticket");
        const { agent, address } = await site.receive(receive(file), signal);
        await prepare?.({ site, source, file, address, signal });
        const args = ["send", "-q", "--qmp", source.qmpPath, ...send(file, address)];
        const end: AgentEnd = await site.start(args, signal).ended;
        const { error } = end;
        const said = `${error?.message}\n${agent.describe()}`;
        assert([code].flat().includes(error?.code ?? ""), said);
        assertEquals(end.code, exit, said);
        if (reason !== null) await agent.waitFor("warning", (line) => line.code === reason);
        agent.kill("SIGTERM");
        await agent.ended;
        const isTicket = (path: string) => Deno.stat(path).then(() => true, () => false);
        const ticket = await isTicket(file) ? (await Deno.readTextFile(file)).trim() : null;
        if (ticket) {
          assertSecret(ticket, {
            "the sender's words": JSON.stringify(end.lines),
            "the receiver's words": agent.describe(),
          });
        }
        await site.assertNoTemporaryFiles();
        assertEquals(await source.runState(signal), "running");
      });
    }
  },
});

Deno.test({
  name: "security: a secret file that others can read is refused, on either side",
  ...requires("qemu-system-x86_64", "qemu-img"),
  async fn() {
    const signal = limit();
    await using temp = await TempDir.create();
    await using site = await TestSite.create();
    await writeSecret(temp.file("secret"));
    await Deno.chmod(temp.file("secret"), 0o644);
    await makeBootDisk(temp.file("boot"), { signal });
    await using source = await startGuest(attach(temp.file("boot")), { signal });
    const secret = ["--secret-file", temp.file("secret")];
    const place = ["--run-dir", site.run, "--disk-dir", site.disks];
    for (
      const args of [
        ["receive", "--serve", ...place, ...secret],
        ["send", "-q", "--to", "127.0.0.1:9", "--qmp", source.qmpPath, ...secret],
      ]
    ) {
      const { code, error } = await site.start(args, signal).ended;
      assertEquals([error?.code, code], ["secret_file_open", USAGE]);
    }
  },
});
