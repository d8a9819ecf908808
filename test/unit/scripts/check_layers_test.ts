// The check of the import layers must find what it is there for.

import { assertEquals } from "@std/assert";
import {
  findBadImports,
  findCycles,
  findUnused,
  type Graph,
  readGraph,
} from "../../../scripts/check_layers.ts";

const GOOD: Graph = new Map([
  ["agents/main.ts", ["src/cli/args.ts", "src/base/errors.ts"]],
  ["src/cli/args.ts", ["src/base/errors.ts"]],
  ["src/base/errors.ts", []],
]);

Deno.test("layers: imports that go down are fine", () => {
  assertEquals(findBadImports(GOOD), []);
  assertEquals(findCycles(GOOD), []);
  assertEquals(findUnused(GOOD, [...GOOD.keys()]), []);
});

Deno.test("layers: imports that go up, sideways or out are found", () => {
  const graph: Graph = new Map([
    ["src/base/errors.ts", ["src/cli/args.ts"]],
    ["src/wire/session.ts", ["src/qmp/client.ts"]],
    ["src/guest/ram.ts", ["src/control/messages.ts"]],
    ["src/cli/args.ts", ["agents/main.ts"]],
    ["agents/main.ts", ["test/lib/vm.ts"]],
  ]);
  assertEquals(findBadImports(graph), [
    "src/base/errors.ts imports src/cli/args.ts: src/base may import nothing",
    "src/wire/session.ts imports src/qmp/client.ts: src/wire may import src/base",
    "src/guest/ram.ts imports src/control/messages.ts: src/guest may import src/base, src/qmp",
    "src/cli/args.ts imports agents/main.ts: src/cli may import src/base, src/wire, src/link, " +
    "src/control, src/guest, src/migration",
    "agents/main.ts imports test/lib/vm.ts: agents may import src/base, src/wire, src/qmp, " +
    "src/link, src/demo_guest, src/control, src/guest, src/xen, src/migration, src/cli",
  ]);
  assertEquals(findBadImports(new Map([["src/other/x.ts", []]])).length, 1);
});

Deno.test("layers: a circle inside one folder is found once", () => {
  const graph: Graph = new Map([
    ["src/base/a.ts", ["src/base/b.ts"]],
    ["src/base/b.ts", ["src/base/c.ts"]],
    ["src/base/c.ts", ["src/base/b.ts"]],
  ]);
  assertEquals(findCycles(graph), [
    "Imports in a circle: src/base/b.ts -> src/base/c.ts -> src/base/b.ts",
  ]);
});

Deno.test("layers: files that nothing uses are found", () => {
  assertEquals(findUnused(GOOD, ["src/cli/args.ts", "src/cli/old.ts"]), [
    "src/cli/old.ts: nothing that agents/main.ts imports leads to it",
  ]);
});

Deno.test("layers: the graph holds the checkout's files, types among their imports, no packages", () => {
  const info = {
    modules: [
      {
        specifier: "file:///p/agents/main.ts",
        dependencies: [
          { code: { specifier: "file:///p/src/base/a.ts" } },
          { type: { specifier: "file:///p/src/base/b.ts" } },
          { code: { specifier: "npm:valibot@1.5.0" } },
          { code: { specifier: "file:///p/deno.json" } },
          {},
        ],
      },
      { specifier: "npm:/valibot@1.5.0" },
      { specifier: "file:///p/deno.json" },
    ],
  };
  assertEquals(
    [...readGraph(info, "file:///p/")],
    [["agents/main.ts", ["src/base/a.ts", "src/base/b.ts"]]],
  );
});
