// The commands that look at journals and those who work on them: their options, and what is refused.

import { assertEquals, assertMatch, assertThrows } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import { parseCommandLine } from "../../../src/cli/arguments.ts";
import type { Surroundings } from "../../../src/cli/option_spec.ts";

const ROOT: Surroundings = {
  cwd: "/home/op",
  uid: 0,
  runtimeDir: null,
  stateHome: null,
  home: "/root",
};

function parse(line: string, around = ROOT) {
  return parseCommandLine(line.split(" "), around);
}

Deno.test("status, resolve, cancel, set: every option, and what is not given", () => {
  const stateDir = "/var/lib/migrate-agent";
  assertEquals<unknown>(parse("status"), { command: "status", id: null, stateDir, json: false });
  assertEquals<unknown>(parse("status 6f1c-2f_0e --json --state-dir s/"), {
    command: "status",
    id: "6f1c-2f_0e",
    stateDir: "/home/op/s",
    json: true,
  });
  assertEquals<unknown>(parse("resolve a1"), {
    command: "resolve",
    id: "a1",
    side: null,
    keep: null,
    stateDir,
    json: false,
  });
  assertEquals<unknown>(
    parse("resolve --keep destination a1 --side source --state-dir /s --json"),
    {
      command: "resolve",
      id: "a1",
      side: "source",
      keep: "destination",
      stateDir: "/s",
      json: true,
    },
  );
  assertEquals<unknown>(parse("cancel a1"), { command: "cancel", id: "a1", stateDir });
  const set = { command: "set", id: "a1", stateDir };
  assertEquals<unknown>(parse("set a1 --bandwidth 1M --downtime-limit 50ms"), {
    ...set,
    diskBandwidth: 2 ** 20,
    ramBandwidth: 2 ** 20,
    downtimeLimitMs: 50,
  });
  assertEquals<unknown>(parse("set a1 --disk-bandwidth none --ram-bandwidth 7"), {
    ...set,
    diskBandwidth: 0,
    ramBandwidth: 7,
    downtimeLimitMs: null,
  });
});

Deno.test("the folder of the journals is that of the user", () => {
  const stateDirOf = (around: Surroundings) => {
    const command = parse("status", around);
    return command.command === "status" && command.stateDir;
  };
  const user = { ...ROOT, uid: 1000, home: "/home/op" };
  assertEquals(stateDirOf(user), "/home/op/.local/state/migrate-agent");
  assertEquals(stateDirOf({ ...user, stateHome: "/x" }), "/x/migrate-agent");
  // A relative path there is to be ignored, as its specification says.
  assertEquals(
    stateDirOf({ ...user, stateHome: "x" }),
    "/home/op/.local/state/migrate-agent",
  );
  const nowhere = () => parse("status", { ...user, home: null });
  assertMatch(assertThrows(nowhere, AgentError).message, /--state-dir FOLDER/);
});

const REFUSALS: [string, string][] = [
  ["resolve", "No ID given for resolve: give one"],
  ["resolve a b", "Unexpected argument 'b' for resolve: it takes one ID"],
  ["status ../a", "ID '../a' is no migration's id: 'migrate-agent status' lists them"],
  ["resolve a --keep both", "--keep 'both' is not known: give source or destination"],
  [
    "set a",
    "Nothing to set: give --bandwidth, --disk-bandwidth, --ram-bandwidth or --downtime-limit",
  ],
  [
    "set a --bandwidth 1M --ram-bandwidth 2M",
    "Options '--bandwidth' and '--ram-bandwidth' exclude each other: give one of them",
  ],
];

for (const [line, message] of REFUSALS) {
  Deno.test(`refused: ${line}`, () => {
    const error = assertThrows(() => parse(line), AgentError);
    assertEquals([error.kind, error.message], ["usage", message]);
  });
}
