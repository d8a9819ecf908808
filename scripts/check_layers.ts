// Checks how the code hangs together, from `deno info --json` (read on stdin) of the program's entry:
// imports go down only, in no circle; every file is used by the program; no file grows too long.
// Run by scripts/ok. The layers are those of CONTRIBUTING.md.

import { toJson } from "@std/streams/to-json";

/** What each folder may import from, besides itself. */
const MAY_IMPORT: Record<string, readonly string[]> = {
  "src/base": [],
  "src/wire": ["src/base"],
  "src/qmp": ["src/base"],
  "src/link": ["src/base"],
  "src/demo_guest": ["src/base"],
  "src/control": ["src/base", "src/wire", "src/link"],
  "src/guest": ["src/base", "src/qmp"],
  "src/xen": ["src/base", "src/qmp", "src/guest"],
  "src/migration": ["src/base"],
  "src/cli": ["src/base", "src/wire", "src/link", "src/control", "src/guest", "src/migration"],
  // Only here everything meets.
  "agents": [
    ...["src/base", "src/wire", "src/qmp", "src/link", "src/demo_guest"],
    ...["src/control", "src/guest", "src/xen", "src/migration", "src/cli"],
  ],
};

const MAX_LINES = 400;

/** The project's own files that the program consists of, by path in the checkout, and their imports. */
export type Graph = Map<string, readonly string[]>;

/** The part of `deno info --json` that is used here. */
export interface DenoInfo {
  modules: {
    specifier: string;
    error?: string;
    dependencies?: { code?: { specifier?: string }; type?: { specifier?: string } }[];
  }[];
}

/** The graph of `.ts` files in `info` (deno.json may be imported too); `root` is the checkout's URL with a slash at the end. */
export function readGraph(info: DenoInfo, root: string): Graph {
  const local = (url: string | undefined) =>
    url?.startsWith(root) && url.endsWith(".ts") ? decodeURI(url.slice(root.length)) : undefined;
  const graph = new Map<string, string[]>();
  for (const module of info.modules) {
    const path = local(module.specifier);
    if (path === undefined) continue;
    const imports = (module.dependencies ?? [])
      .flatMap((d) => [local(d.code?.specifier), local(d.type?.specifier)])
      .filter((p) => p !== undefined);
    graph.set(path, [...new Set(imports)]);
  }
  return graph;
}

/** One line for each import that goes up or sideways, or out of the program's folders. */
export function findBadImports(graph: Graph): string[] {
  const problems: string[] = [];
  for (const [path, imports] of graph) {
    const from = folderOf(path);
    const allowed = MAY_IMPORT[from];
    if (!allowed) {
      problems.push(`${path}: belongs to no layer; the layers are ${LAYERS.join(", ")}`);
      continue;
    }
    for (const target of imports) {
      const to = folderOf(target);
      if (to !== from && !allowed.includes(to)) {
        problems.push(
          `${path} imports ${target}: ${from} may import ${allowed.join(", ") || "nothing"}`,
        );
      }
    }
  }
  return problems;
}

/** One line for each circle of imports, found from its first file. */
export function findCycles(graph: Graph): string[] {
  const problems: string[] = [];
  const done = new Set<string>();
  const visit = (path: string, above: string[]) => {
    const at = above.indexOf(path);
    if (at >= 0) problems.push(`Imports in a circle: ${[...above.slice(at), path].join(" -> ")}`);
    if (at >= 0 || done.has(path)) return;
    for (const target of graph.get(path) ?? []) visit(target, [...above, path]);
    done.add(path);
  };
  for (const path of graph.keys()) visit(path, []);
  return problems;
}

/** One line for each of `files` that the program does not use. */
export function findUnused(graph: Graph, files: readonly string[]): string[] {
  return files.filter((path) => !graph.has(path)).map((path) =>
    `${path}: nothing that agents/main.ts imports leads to it`
  );
}

const LAYERS = Object.keys(MAY_IMPORT);

/** `src/base/errors.ts` -> `src/base`, `agents/main.ts` -> `agents`. */
function folderOf(path: string): string {
  return path.split("/").slice(0, path.startsWith("src/") ? 2 : 1).join("/");
}

function listSources(root: URL, folder: string): string[] {
  return [...Deno.readDirSync(new URL(folder, root))].flatMap((entry) => {
    const path = `${folder}/${entry.name}`;
    if (entry.isDirectory) return listSources(root, path);
    return /\.ts$/.test(path) && !/\.d\.ts$/.test(path) ? [path] : [];
  }).sort();
}

function findLongFiles(root: URL, files: readonly string[]): string[] {
  return files.flatMap((path) => {
    const lines = Deno.readTextFileSync(new URL(path, root)).split("\n").length - 1;
    return lines > MAX_LINES ? [`${path}: ${lines} lines, more than ${MAX_LINES}`] : [];
  });
}

if (import.meta.main) {
  const root = new URL("../", import.meta.url);
  const info = await toJson(Deno.stdin.readable) as DenoInfo;
  const graph = readGraph(info, root.href);
  const program = ["agents", "src"].flatMap((folder) => listSources(root, folder));
  const others = ["scripts", "test"].flatMap((folder) => listSources(root, folder));
  const problems = [
    ...info.modules.flatMap((m) => m.error ? [`${m.specifier}: ${m.error}`] : []),
    ...findBadImports(graph),
    ...findCycles(graph),
    ...findUnused(graph, program),
    ...findLongFiles(root, [...program, ...others]),
  ];
  for (const problem of problems) console.error(problem);
  console.log(`Layers: ${graph.size} files, ${problems.length} problems`);
  if (problems.length > 0) Deno.exit(1);
}
