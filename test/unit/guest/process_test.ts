import { assertEquals, assertRejects } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import { findSocketOwner, readProcess, skipLoader } from "../../../src/guest/process.ts";
import { TempDir } from "../../lib/temp.ts";

const QEMU = "/opt/q/bin/qemu-system-x86_64";

Deno.test("skipLoader: QEMU itself, or behind an explicit dynamic loader with its options", () => {
  assertEquals(skipLoader(QEMU, ["qemu", "-m", "1G"]), { program: QEMU, argv: ["-m", "1G"] });
  const loader = "/opt/q/lib64/ld-linux-x86-64.so.2";
  assertEquals(skipLoader(loader, [loader, "--library-path", "/opt/q/lib", QEMU, "-S"]), {
    program: QEMU,
    argv: ["-S"],
  });
  const more = [loader, "--inhibit-cache", "--argv0", "qemu", "--preload", "p.so", QEMU, "-S"];
  assertEquals(skipLoader(loader, more), { program: QEMU, argv: ["-S"] });
  assertEquals(skipLoader(loader, [loader]), { program: loader, argv: [] });
});

Deno.test("the process behind a socket, and what it has open", async () => {
  await using temp = await TempDir.create();
  using _listener = Deno.listen({ transport: "unix", path: temp.file("q.sock") });
  assertEquals(await findSocketOwner(temp.file("q.sock")), Deno.pid);
  await Deno.writeTextFile(temp.file("disk.raw"), "");
  using _disk = await Deno.open(temp.file("disk.raw"));
  const process = await readProcess(Deno.pid);
  assertEquals(process.binary, Deno.execPath());
  assertEquals(process.resolvePath("/abs/x"), "/abs/x");
  assertEquals(process.resolvePath("./disk.raw"), await Deno.realPath(temp.file("disk.raw")));
});

Deno.test("a file that is no socket has no owner; a process that is not there says so", async () => {
  await using temp = await TempDir.create();
  await Deno.writeTextFile(temp.file("f"), "");
  for (const name of ["f", "nothing"]) {
    const finding = findSocketOwner(temp.file(name));
    const { code, kind } = await assertRejects(() => finding, AgentError);
    assertEquals([code, kind], ["qmp_unreachable", "refused"]);
  }
  const reading = readProcess(2 ** 30);
  assertEquals((await assertRejects(() => reading, AgentError)).code, "qemu_process_unknown");
});
