// The completion scripts in the shells themselves: bash is asked for COMPREPLY, zsh (where it is
// installed) parses its script.

import { assertEquals } from "@std/assert";
import { completionScript } from "../../../src/cli/completions.ts";
import { requires } from "../../lib/requires.ts";

async function run(program: string, script: string): Promise<string> {
  // zsh's completion system belongs to an interactive shell; what can be checked here is the syntax.
  const flags = program === "bash" ? ["--norc", "--noprofile"] : ["-f", "-n"];
  const { success, stdout, stderr } = await new Deno.Command(program, {
    args: [...flags, "-c", script],
  }).output();
  const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  assertEquals([success, decode(stderr)], [true, ""]);
  return decode(stdout);
}

/** What bash offers for the last of `words`, in order. */
async function complete(
  words: string[],
  { cwd = "/", before = "" } = {},
): Promise<string[]> {
  const quoted = words.map((word) => `'${word}'`).join(" ");
  const out = await run(
    "bash",
    `${completionScript("bash")}
${before}
cd '${cwd}'
COMP_WORDS=(${quoted}); COMP_CWORD=${words.length - 1}
_migrate_agent
printf '%s\\n' "\${COMPREPLY[@]}"`,
  );
  return out.split("\n").filter((line) => line !== "");
}

Deno.test("bash completes commands, options and values", async () => {
  assertEquals(await complete(["migrate-agent", "sen"]), ["send"]);
  assertEquals(await complete(["migrate-agent", "--v"]), ["--version"]);
  assertEquals(await complete(["migrate-agent", "send", "--co"]), ["--copy-storage"]);
  assertEquals(await complete(["migrate-agent", "send", "--qmp", "x", "--tim"]), ["--timeout"]);
  assertEquals(await complete(["migrate-agent", "send", "--source-after", ""]), ["quit", "paused"]);
  // '=' is a word of its own to bash.
  assertEquals(await complete(["migrate-agent", "send", "--source-after", "="]), [
    "quit",
    "paused",
  ]);
  assertEquals(await complete(["migrate-agent", "send", "--source-after", "=", "p"]), ["paused"]);
  assertEquals(await complete(["migrate-agent", "receive", "--disk-dir", "/us"]), ["/usr"]);
  assertEquals(await complete(["migrate-agent", "send", "--timeout", ""]), []);
  assertEquals(await complete(["migrate-agent", "completions", ""]), ["bash", "zsh"]);
  assertEquals(await complete(["migrate-agent", "help", "rec"]), ["receive"]);
  assertEquals(await complete(["migrate-agent", "bogus", "--x"]), []);
});

Deno.test("bash completes names of files with blanks in them", async () => {
  const folder = await Deno.makeTempDir({ prefix: "migrate-agent-test-" });
  try {
    await Deno.writeTextFile(`${folder}/a socket`, "");
    assertEquals(await complete(["migrate-agent", "send", "--qmp", "a"], { cwd: folder }), [
      "a socket",
    ]);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("bash completes the ids of the migrations that have a journal here", async () => {
  const folder = await Deno.makeTempDir({ prefix: "migrate-agent-test-" });
  try {
    for (
      const name of ["a1.source.json", "a1.destination.json", "b2.source.json", "b2.source.sock"]
    ) {
      await Deno.writeTextFile(`${folder}/${name}`, "");
    }
    const listed = { before: `ls() { command ls '${folder}'; }` };
    assertEquals(await complete(["migrate-agent", "resolve", ""], listed), ["a1", "b2"]);
    assertEquals(await complete(["migrate-agent", "cancel", "b"], listed), ["b2"]);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test({
  name: "zsh parses its completion script",
  ...requires("zsh"),
  async fn() {
    await run("zsh", completionScript("zsh"));
  },
});
