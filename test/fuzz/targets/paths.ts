// Path rules: whatever path a peer names, what is allowed lies inside the folders, links and dots
// resolved as the kernel would.

import { checkPathInside } from "../../../src/guest/command_line/policy.ts";
import { mapPath } from "../../../src/guest/target_disks.ts";
import { mutateText } from "../mutate_json.ts";
import { holds, type Target } from "../target.ts";

interface Input {
  path: string;
  folders: string[];
  /** Links, and what they name. */
  links: Record<string, string>;
}

const NAMES = [
  "dst",
  "ro",
  "etc",
  "shadow",
  "a.raw",
  "deep",
  "..",
  ".",
  "",
  "...",
  "no",
  "dst2",
  "é",
];
const FOLDERS = ["/dst", "/ro", "/dst/deep", "/", "/gone", "/dst/link", "/ro/"];
/** Everything that is there; folders and files are not told apart. */
const TREE = new Set(
  ["/", "/dst", "/dst/a.raw", "/dst/deep", "/dst/deep/a.raw", "/ro", "/ro/a.raw", "/etc"].concat(
    ["/etc/shadow", "/dst2", "/dst2/a.raw", "/dst/é"],
  ),
);

export const PATH_TARGET: Target<Input> = {
  name: "path",
  share: 160,
  make(random) {
    const makePath = () => {
      let path = "";
      for (let i = random.few(6); i > 0; i--) path += "/" + random.pick(NAMES);
      return path;
    };
    const links: Record<string, string> = {};
    for (let i = random.below(3); i > 0; i--) {
      const from = random.pick(["/dst/no", "/dst/deep/no", "/ro/no", "/dst/link"]);
      links[from] = random.oneIn(3) ? makePath().slice(1) : makePath();
    }
    const path = random.oneIn(3) ? mutateText(random, makePath()) : makePath();
    return { path, folders: [random.pick(FOLDERS), random.pick(FOLDERS)], links };
  },
  run({ path, folders, links }) {
    const realPath = (name: string) => resolve(name, links, 0);
    const result = checkPathInside(path, folders, { realPath });
    const mapped = mapPath(path, {
      diskDir: null,
      diskPaths: [],
      pathMaps: [{ from: "/src", to: "/dst" }, { from: "/", to: "/ro/" }],
      reuseDisks: false,
      allowDirs: [],
    });
    const isUnder = path.startsWith("/");
    holds((mapped !== null) === isUnder, () => `mapped to ${mapped}`);
    holds(mapped === null || /^\/(dst|ro)(\/|$)/.test(mapped), () => `mapped to ${mapped}`);
    if (result === null) return;
    holds(!/\/\.{0,2}(\/|$)/.test(result) || result === "/", () => `${result} is not resolved`);
    const real = realPath(result);
    holds(real === null || real === result, () => `${result} leads to ${real}`);
    const isInside = folders.some((folder) => {
      const base = realPath(folder);
      return base !== null && (result + "/").startsWith(base === "/" ? "/" : base + "/");
    });
    holds(isInside, () => `${result} is outside`);
    // What the peer named and what was allowed are the same file.
    const named = realPath(path);
    holds(named === null || named === result, () => `${path} is ${named}, not ${result}`);
  },
};

/** realpath(3) in that tree, component by component. */
function resolve(path: string, links: Record<string, string>, depth: number): string | null {
  if (!path.startsWith("/") || depth > 40) return null;
  let done = "/";
  for (const [at, name] of path.split("/").entries()) {
    if (name === "" || name === ".") continue;
    if (name === "..") {
      done = done.slice(0, done.lastIndexOf("/")) || "/";
      continue;
    }
    const next = done === "/" ? `/${name}` : `${done}/${name}`;
    const link = Object.hasOwn(links, next) ? links[next]! : undefined;
    if (link !== undefined) {
      const rest = path.split("/").slice(at + 1).join("/");
      const target = link.startsWith("/") ? link : `${done}/${link}`;
      return resolve(`${target}/${rest}`, links, depth + 1);
    }
    if (!TREE.has(next)) return null;
    done = next;
  }
  return done;
}
