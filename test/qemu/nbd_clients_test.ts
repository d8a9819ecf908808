// Somebody else sits at the NBD port while a guest moves: a port scanner, or what a lost link has left. The
// guest moves all the same. (A QEMU that is told to stop its server while they are there may hang for
// good, see src/guest/nbd_clients.ts.)

import { assertEquals } from "@std/assert";
import { abortable } from "../../src/base/deadline.ts";
import { borrowServerSockets } from "../../src/base/foreign_socket.ts";
import type { Agent } from "../lib/agents.ts";
import { attach, makeBootDisk, move, startGuest } from "../lib/moving.ts";
import { requires } from "../lib/requires.ts";
import { TestSite } from "../lib/site.ts";
import { TempDir } from "../lib/temp.ts";

const newer = Deno.env.get("QEMU_NEWER");
/** The receiver stands still there; its exports are served, and nobody has stopped them yet. */
const BEFORE = "destination.switchover.stop_exports.before";
/** What each of them says before it says no more: nothing, or the client's flags, or half an option. */
const WORDS = [[], [0, 0, 0, 1], [0, 0, 0, 1, ...new TextEncoder().encode("IHAVEO")]];

/** The port at which that process serves NBD: the one that it listens at. */
function nbdPort(pid: number): number {
  const ports: number[] = [];
  borrowServerSockets(pid, ({ listens, localPort }) => listens && ports.push(localPort));
  assertEquals(ports.length, 1);
  return ports[0]!;
}

async function sitDown(port: number): Promise<Deno.TcpConn[]> {
  return await Promise.all(WORDS.map(async (words) => {
    const conn = await Deno.connect({ hostname: "127.0.0.1", port });
    await conn.read(new Uint8Array(64)); // the server's greeting: QEMU waits for an answer now
    await conn.write(Uint8Array.from(words));
    return conn;
  }));
}

/** Until the server has ended it, in whatever way. */
async function isTurnedOut(conn: Deno.TcpConn): Promise<boolean> {
  try {
    return await conn.read(new Uint8Array(64)) === null;
  } catch (error) {
    return error instanceof Deno.errors.ConnectionReset;
  }
}

for (const binary of ["qemu-system-x86_64", newer ?? "a newer QEMU in QEMU_NEWER"]) {
  const isNewer = binary !== "qemu-system-x86_64";
  for (const way of ["encrypted", "insecure"]) {
    Deno.test({
      name: `strangers at the NBD port do not hold a guest up: ${way}, ${
        isNewer ? "a newer QEMU" : "the installed QEMU"
      }`,
      ...requires("qemu-img", binary),
      async fn() {
        const signal = AbortSignal.timeout(60_000);
        await using temp = await TempDir.create();
        await using site = await TestSite.create();
        const path = temp.file("boot.raw");
        await makeBootDisk(path, { signal });
        await using source = await startGuest(attach(path), { signal, binary });
        const insecure = way === "insecure" ? ["--insecure"] : [];
        const folder = new URL(".", `file://${binary}`).pathname;
        const strangers: Deno.TcpConn[] = [];
        await using moved = await move(site, {
          source,
          receive: [
            ...[...insecure, "--fail-at", `${BEFORE}:hold`],
            ...(isNewer ? ["--qemu", binary, "--allow-dir", folder] : []),
          ],
          send: ["-q", ...insecure],
          async disturb(_: Agent, receiver: Agent) {
            await receiver.waitFor("warning", ({ code }) => code === "fault_point");
            const pid = Number(await Deno.readTextFile(`${site.run}/guest/qemu.pid`));
            strangers.push(...await sitDown(nbdPort(pid)));
            receiver.kill("SIGUSR1");
          },
          signal,
        });
        const ends = Promise.all(strangers.map(isTurnedOut));
        assertEquals(await abortable(ends, signal), WORDS.map(() => true));
        for (const conn of strangers) conn.close();
        assertEquals(moved.sender.account!.running, true);
      },
    });
  }
}
