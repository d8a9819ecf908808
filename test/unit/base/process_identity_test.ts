import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import { identifyProcess, isSameProcess } from "../../../src/base/process_identity.ts";
import { waitForExit } from "../../../src/guest/proc.ts";
import { TempDir } from "../../lib/temp.ts";

Deno.test("this process is itself, and no other with its number", async () => {
  const self = await identifyProcess(Deno.pid);
  assertEquals(self.pid, Deno.pid);
  assert(await isSameProcess(self));
  assert(!await isSameProcess({ ...self, start_ticks: self.start_ticks + 1 }));
  const otherBoot = "00000000-0000-0000-0000-000000000000";
  assert(!await isSameProcess({ ...self, boot_id: otherBoot }));
});

Deno.test("a process that has ended is nobody", async () => {
  const child = new Deno.Command("sleep", { args: ["60"] }).spawn();
  const identity = await identifyProcess(child.pid);
  assert(await isSameProcess(identity));
  child.kill("SIGKILL");
  await child.status;
  assert(!await isSameProcess(identity));
  const error = await assertRejects(() => identifyProcess(child.pid), AgentError);
  assertEquals(error.code, "process_gone");
});

Deno.test("a zombie has ended", async () => {
  // Its parent becomes `sleep`, which waits for nobody.
  const script = "sleep 60 & echo $!; exec sleep 60";
  const parent = new Deno.Command("sh", { args: ["-c", script], stdout: "piped" }).spawn();
  const reader = parent.stdout.getReader();
  try {
    const pid = Number(new TextDecoder().decode((await reader.read()).value));
    const identity = await identifyProcess(pid);
    assert(await isSameProcess(identity));
    Deno.kill(pid, "SIGKILL");
    assert(await waitForExit(pid, { timeoutMs: 5000 }));
    assert(!await isSameProcess(identity));
    assertMatch(await Deno.readTextFile(`/proc/${pid}/status`), /^State:\tZ/m);
  } finally {
    parent.kill("SIGKILL");
    await parent.status;
    await reader.cancel();
  }
});

Deno.test("a program's name may hold what stands around it", async () => {
  await using temp = await TempDir.create();
  await Deno.symlink("/bin/sleep", temp.file("a) Z (b"));
  const child = new Deno.Command(temp.file("a) Z (b"), { args: ["60"] }).spawn();
  try {
    assert(await isSameProcess(await identifyProcess(child.pid)));
  } finally {
    child.kill("SIGKILL");
    await child.status;
  }
});
