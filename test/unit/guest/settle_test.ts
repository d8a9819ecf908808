// What a killed agent left on its host, undone from its journal: files, folders, processes. What is
// done in a QEMU is shown in test/qemu.

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { identifyProcess } from "../../../src/base/process_identity.ts";
import type { Remain } from "../../../src/base/remains.ts";
import { settleRemains } from "../../../src/guest/settle.ts";
import { TempDir } from "../../lib/temp.ts";
import { DEAD, SELF } from "../migration/journal_fixture.ts";

const never = new AbortController().signal;

async function settle(...remains: Remain[]) {
  const done: string[] = [];
  const options = { mayRun: true, signal: never, log: (what: string) => void done.push(what) };
  const { left, failures } = await settleRemains(remains, options);
  return { left, done, failures: failures.map(({ message }) => message) };
}

async function makeFile(path: string): Promise<Remain> {
  await Deno.writeTextFile(path, "");
  const { dev, ino } = await Deno.stat(path);
  return { kind: "file", path, dev, ino: ino! };
}

async function namesIn({ path }: TempDir): Promise<string[]> {
  return (await Array.fromAsync(Deno.readDir(path))).map(({ name }) => name).sort();
}

/** A process that waits, with those words on its command line. */
function startWaiting(...words: string[]) {
  const child = new Deno.Command("sh", {
    args: ["-c", "read -r word", "sh", ...words],
    stdin: "piped",
  }).spawn();
  return {
    pid: child.pid,
    status: child.status,
    [Symbol.asyncDispose]: async () => {
      await child.stdin.close().catch(() => {}); // it has ended
      await child.status;
    },
  };
}

Deno.test("settle: newest first, and a second time there is nothing to do", async () => {
  await using temp = await TempDir.create();
  const folder = temp.file("run");
  await Deno.mkdir(folder);
  await Deno.writeTextFile(`${folder}/qemu.pid`, "1\n");
  const remains: Remain[] = [{ kind: "folder", path: folder }, await makeFile(temp.file("a.raw"))];
  const { done, left } = await settle(...remains);
  assertEquals(done, [
    `removed the image '${temp.file("a.raw")}'`,
    `removed the folder '${folder}'`,
  ]);
  assertEquals([left, await namesIn(temp)], [[], []]);
  assertEquals(await settle(...remains), { done: [], left: [], failures: [] });
});

Deno.test("settle: an image that took the place of the one that was made here stays", async () => {
  await using temp = await TempDir.create();
  const image = await makeFile(temp.file("a.raw"));
  await Deno.rename(temp.file("a.raw"), temp.file("moved.raw"));
  await Deno.writeTextFile(temp.file("a.raw"), "somebody else's");
  assertEquals((await settle(image)).done, []);
  await Deno.remove(temp.file("a.raw"));
  await Deno.symlink(temp.file("moved.raw"), temp.file("a.raw"));
  assertEquals(await settle(image), { done: [], left: [], failures: [] });
  assertEquals(await namesIn(temp), ["a.raw", "moved.raw"]);
});

Deno.test("settle: a link in a folder's place is not followed; the others go all the same", async () => {
  await using temp = await TempDir.create();
  await Deno.mkdir(temp.file("precious"));
  await Deno.symlink(temp.file("precious"), temp.file("keys"));
  const folder: Remain = { kind: "folder", path: temp.file("keys") };
  const { left, failures } = await settle(await makeFile(temp.file("a.raw")), folder);
  assertEquals(left, [folder]);
  assertStringIncludes(failures[0]!, `Cannot remove the folder '${folder.path}'`);
  assertEquals(await namesIn(temp), ["keys", "precious"]);
});

Deno.test("settle: ends the process that it was, never another with its number", async () => {
  await using waiting = startWaiting();
  const process = await identifyProcess(waiting.pid);
  const older = { ...process, start_ticks: process.start_ticks - 1 };
  for (const other of [older, { ...process, boot_id: DEAD.boot_id }]) {
    assertEquals((await settle({ kind: "process", what: "QEMU", process: other })).done, []);
  }
  const { done } = await settle({ kind: "process", what: "QEMU", process });
  assertEquals(done, [`ended QEMU (process ${waiting.pid})`]);
  assertEquals((await waiting.status).signal, "SIGTERM");
});

Deno.test("settle: a QEMU is known by the process id file that it was started with", async () => {
  await using temp = await TempDir.create();
  const path = temp.file("qemu.pid");
  await using mine = startWaiting("-pidfile", path);
  await using other = startWaiting("-pidfile", `${path}2`);
  await using reader = startWaiting("-D", path);
  // Its number belongs to another process by now.
  await Deno.writeTextFile(path, `${other.pid}\n`);
  const { done } = await settle({ kind: "pid_file", path });
  assertEquals(done, [`ended the QEMU that was started here (process ${mine.pid})`]);
  await mine.status;
  for (const { pid } of [other, reader]) await identifyProcess(pid);
});

Deno.test("settle: files stay while a QEMU may use them that could not be put in order", async () => {
  await using temp = await TempDir.create();
  const image = await makeFile(temp.file("a.raw"));
  const qemu: Remain = {
    kind: "source_qemu",
    qmp: temp.file("nobody"),
    process: SELF,
    should_run: true,
    settings: null,
  };
  const { left, failures } = await settle(image, qemu);
  assertEquals([left, failures.length], [[image, qemu], 1]);
  assert((await namesIn(temp)).includes("a.raw"));
  assertEquals(await settle(image, { ...qemu, process: DEAD }), {
    done: [`removed the image '${temp.file("a.raw")}'`],
    left: [],
    failures: [],
  });
});
