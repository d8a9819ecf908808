// What is done to domains with Xen's own tools, against an xl that is a script: it keeps its domains in a
// file and writes down what it was asked.

import { assert, assertEquals, assertRejects } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import { findDomain, queryRunState } from "../../../src/xen/domain.ts";
import { recoverDomain, runReceived } from "../../../src/xen/recovery.ts";
import { endDomain, settleXen } from "../../../src/xen/settle.ts";
import { TempDir } from "../../lib/temp.ts";

const UUID = "4ebcdfd9-cf1f-4bd3-a747-9f3089cff86e";
const signal = new AbortController().signal;
const GUEST = { uuid: UUID, name: "g1" };
const PIPE = ["/nonexistent"];

/** Domains are lines "ID NAME STATE UUID". */
const XL = `#!/bin/sh
cd "$(dirname "$0")"
echo "$*" >> calls
change() { sed "$1" domains > new && mv new domains; }
case "$1" in
  vm-list)
    echo "UUID                                  ID    name"
    while read -r id name state uuid; do echo "$uuid  $id    $name     "; done < domains ;;
  list)
    row=$(grep "^$2 " domains) || { echo "'$2' is an invalid domain identifier (rc=-6)" >&2; exit 1; }
    set -- $row
    echo "Name                                        ID   Mem VCPUs	State	Time(s)"
    echo "$2                    $1    32     1     $3       7.4" ;;
  rename) change "s/^$2 [^ ]* /$2 $3 /" ;;
  unpause) change "s/^\\($2 [^ ]* \\)--p---/\\1r-----/" ;;
  destroy) change "/^$2 /d" ;;
  *) exit 9 ;;
esac
`;

/** Runs `test` where `xl` is the script; `domain` null: there is none but dom0. */
async function withXl(
  domain: { name: string; state: string } | null,
  test: (xl: { calls: () => string[]; domains: () => string[] }) => Promise<void>,
): Promise<void> {
  await using temp = await TempDir.create();
  const rows = ["0 Domain-0 r----- 00000000-0000-0000-0000-000000000000"];
  if (domain) rows.push(`5 ${domain.name} ${domain.state} ${UUID}`);
  await Deno.writeTextFile(temp.file("domains"), rows.join("\n") + "\n");
  await Deno.writeTextFile(temp.file("calls"), "");
  await Deno.writeTextFile(temp.file("xl"), XL, { mode: 0o755 });
  const before = Deno.env.get("PATH")!;
  Deno.env.set("PATH", `${temp.file("xl").replace(/\/xl$/, "")}:${before}`);
  const lines = (name: string) => Deno.readTextFileSync(temp.file(name)).trimEnd().split("\n");
  try {
    await test({
      calls: () => lines("calls").filter((call) => !/^(list|vm-list)/.test(call)),
      domains: () => lines("domains").slice(1),
    });
  } finally {
    Deno.env.set("PATH", before);
  }
}

Deno.test("source: a domain gets its own name back, once", async () => {
  await withXl({ name: "g1--migratedaway", state: "-b----" }, async (xl) => {
    for (let times = 0; times < 2; times++) {
      assertEquals(await recoverDomain(GUEST, { pipe: PIPE, run: true }), true);
    }
    assertEquals(xl.calls(), ["rename 5 g1"]);
  });
});

Deno.test("source: a domain that is gone is not said to go on", async () => {
  await withXl(null, async () => {
    assertEquals(await recoverDomain(GUEST, { pipe: PIPE, run: true }), false);
    const process = { pid: 2 ** 22 + 1, start_ticks: 1, boot_id: crypto.randomUUID() };
    const remain = { kind: "xen_source" as const, ...GUEST, qmp: "/q", process, should_run: true };
    const options = { signal, mayRun: true, pipe: PIPE, log: () => {} };
    const error = await assertRejects(() => settleXen(remain, options), AgentError);
    assertEquals(error.code, "domain_gone");
    await settleXen(remain, { ...options, mayRun: false }); // it is not this host's: nothing to do
  });
});

Deno.test("a domain whose device model has ended gets its name back, and is not let run", async () => {
  await withXl({ name: "g1--migratedaway", state: "---ss-" }, async (xl) => {
    const process = { pid: 2 ** 22 + 1, start_ticks: 1, boot_id: crypto.randomUUID() };
    const remain = { kind: "xen_source" as const, ...GUEST, qmp: "/q", process, should_run: true };
    const done: string[] = [];
    const log = (text: string) => void done.push(text);
    await settleXen(remain, { signal, mayRun: true, pipe: PIPE, log });
    assertEquals(xl.calls(), ["rename 5 g1"]); // libxl could not: a try would only fail
    assertEquals(done.length, 1);
    assert(done[0]!.includes("'g1' (process 4194305) has ended"), done[0]);
  });
});

const RECEIVED: [what: string, domain: { name: string; state: string }, run: boolean, end: {
  state: string;
  calls: string[];
}][] = [
  ["xl never got the permission", { name: "g1--incoming", state: "--p---" }, true, {
    state: "running",
    calls: ["rename 5 g1", "unpause 5"],
  }],
  ["xl was ended between name and run", { name: "g1", state: "--p---" }, true, {
    state: "running",
    calls: ["unpause 5"],
  }],
  ["xl has done it all", { name: "g1", state: "-b----" }, true, { state: "running", calls: [] }],
  ["a guest that was paused stays so", { name: "g1--incoming", state: "--p---" }, false, {
    state: "paused",
    calls: ["rename 5 g1"],
  }],
  ["a guest that has stopped since", { name: "g1", state: "---sc-" }, true, {
    state: "lost",
    calls: [],
  }],
];

for (const [what, domain, run, end] of RECEIVED) {
  Deno.test(`destination, accepted: ${what}`, async () => {
    await withXl(domain, async (xl) => {
      const { state } = await runReceived(GUEST, { run });
      assertEquals<unknown>({ state, calls: xl.calls().filter(Boolean) }, end);
      assertEquals((await runReceived(GUEST, { run })).state, end.state); // a second time as well
    });
  });
}

Deno.test("destination: what was being received is destroyed under any name, and again", async () => {
  await withXl({ name: "g1--incoming", state: "--p---" }, async (xl) => {
    const remain = { kind: "xen_domain" as const, ...GUEST };
    const done: string[] = [];
    const log = (text: string) => void done.push(text);
    await settleXen(remain, { signal, mayRun: false, pipe: PIPE, log });
    await endDomain(GUEST, { log });
    assertEquals([xl.domains(), xl.calls()], [[], ["destroy 5"]]);
    assertEquals(done, ["destroyed the domain 'g1--incoming'"]);
  });
});

Deno.test("a domain is found by its name, by its number, and while xl hands it over", async () => {
  await withXl({ name: "g1--migratedaway", state: "---ss-" }, async () => {
    for (const name of ["g1", "5", "g1--migratedaway"]) {
      assertEquals((await findDomain(name, signal)).domid, 5, name);
    }
    const error = await assertRejects(() => findDomain("g2", signal), AgentError, "'g2'");
    assert(error.hint?.includes("'g1--migratedaway'"), "the hint lists those that are there");
  });
});

Deno.test("what a domain does, in one word", async () => {
  const table = {
    "r-----": "running",
    "-b----": "running",
    "--p---": "paused",
    "---ss-": "suspend",
  };
  for (const [state, word] of Object.entries(table)) {
    await withXl({ name: "g1", state }, async () => {
      assertEquals(await queryRunState(UUID.toUpperCase(), signal), word);
    });
  }
  await withXl(null, async () => assertEquals(await queryRunState(UUID, signal), null));
});
