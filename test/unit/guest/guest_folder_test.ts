import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import {
  guestFolder,
  makeGuestFolder,
  readPidFile,
  refuseLivingGuest,
  removeGuestFolder,
  removeLeftFolder,
} from "../../../src/guest/guest_folder.ts";
import { TempDir } from "../../lib/temp.ts";

Deno.test("a guest's name never leads out of the run folder", () => {
  const place = (name: string) => guestFolder(name, { runDir: "/run/m", qmpPath: null }).path;
  assertEquals(place("web-1.example"), "/run/m/web-1.example");
  for (const name of ["..", ".", "a/../../b", "/etc", "ä b", ".hidden"]) {
    const path = place(name);
    assert(/^\/run\/m\/[A-Za-z0-9_-][A-Za-z0-9._-]*$/.test(path), `${name} becomes ${path}`);
  }
});

Deno.test("the QMP socket's path: the operator's, or in the folder, and short enough", () => {
  const own = guestFolder("g", { runDir: "/run/m", qmpPath: "/vm/g.sock" });
  assertEquals([own.qmpPath, own.pidFile], ["/vm/g.sock", "/run/m/g/qemu.pid"]);
  const runDir = "/" + "x".repeat(107 - "//g/qmp.sock".length);
  assertEquals(guestFolder("g", { runDir, qmpPath: null }).qmpPath.length, 107);
  const error = assertThrows(
    () => guestFolder("gg", { runDir, qmpPath: null }),
    AgentError,
  );
  assertEquals([error.code, error.kind], ["socket_path_too_long", "refused"]);
});

Deno.test("made for its owner only; what a dead guest left is gone; removing twice is harmless", async () => {
  await using temp = await TempDir.create();
  const folder = guestFolder("g", { runDir: temp.file("run"), qmpPath: null });
  await makeGuestFolder(folder);
  await Deno.writeTextFile(folder.logFile, "old");
  await makeGuestFolder(folder);
  assertEquals([...Deno.readDirSync(folder.path)], []);
  assertEquals(((await Deno.stat(folder.path)).mode ?? 0) & 0o777, 0o700);
  await removeGuestFolder(folder);
  await removeGuestFolder(folder);
  await refuseLivingGuest(folder, "g");
});

Deno.test("a living guest is not disturbed", async () => {
  await using temp = await TempDir.create();
  const folder = guestFolder("g", { runDir: temp.path, qmpPath: null });
  await makeGuestFolder(folder);
  await Deno.writeTextFile(folder.pidFile, `${Deno.pid}\n`);
  const refusing = refuseLivingGuest(folder, "g");
  const error = await assertRejects(() => refusing, AgentError, `process ${Deno.pid}`);
  assertEquals([error.code, error.kind], ["guest_exists", "refused"]);
});

Deno.test("a pid file that is missing, empty or nonsense names no process", async () => {
  await using temp = await TempDir.create();
  const path = temp.file("pid");
  assertEquals(await readPidFile(path), null);
  for (const text of ["", "x", "-1", "0", "1.5"]) {
    await Deno.writeTextFile(path, text);
    assertEquals(await readPidFile(path), null, text);
  }
});

Deno.test("the folder of a guest that has left goes, unless something in it is worth keeping", async () => {
  await using temp = await TempDir.create();
  const folder = guestFolder("g", { runDir: temp.file("run"), qmpPath: null });
  const argv = ["-m", "64", "-D", folder.logFile, "-d", "page", "-pidfile", folder.pidFile, "-S"];
  const isThereAfter = async (command: readonly string[], files: Record<string, string>) => {
    await makeGuestFolder(folder);
    for (const [name, text] of Object.entries(files)) {
      await Deno.writeTextFile(`${folder.path}/${name}`, text);
    }
    await removeLeftFolder(command);
    return [...Deno.readDirSync(temp.file("run"))].length > 0;
  };
  const empty = { "qemu.log": "" };
  assertEquals(await isThereAfter(argv, empty), false);
  await removeLeftFolder(argv); // it may be gone
  assertEquals(await isThereAfter(argv, { "qemu.log": "an error" }), true);
  assertEquals(await isThereAfter(argv, { ...empty, "disk.raw": "" }), true);
  // Somebody else's QEMU, with names of its own.
  assertEquals(await isThereAfter([], empty), true);
  assertEquals(await isThereAfter(["-pidfile", folder.pidFile], empty), true);
  assertEquals(await isThereAfter(["-D", folder.logFile, "-pidfile", "qemu.pid"], empty), true);
});
