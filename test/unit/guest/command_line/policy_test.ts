import { assertEquals } from "@std/assert";
import { checkPathInside } from "../../../../src/guest/command_line/policy.ts";

/** A file system of folders, files, and links (name to target). */
function fileSystem(entries: Record<string, string>): (path: string) => string | null {
  return (path) => {
    let real = "";
    for (const part of path.split("/").filter((word) => word !== "" && word !== ".")) {
      if (part === "..") real = real.slice(0, real.lastIndexOf("/"));
      else {
        const target = entries[`${real}/${part}`];
        if (target === undefined) return null;
        real = target === "" ? `${real}/${part}` : target;
      }
    }
    return real || "/";
  };
}

const realPath = fileSystem({
  "/ok": "",
  "/ok/file": "",
  "/ok/sub": "",
  "/ok/out": "/etc",
  "/okay": "",
  "/okay/file": "",
  "/etc": "",
  "/etc/shadow": "",
  "/way": "/ok",
});

Deno.test("a path stays inside the folders that are allowed", () => {
  const cases: [string, string | null][] = [
    ["/ok/file", "/ok/file"],
    ["/ok", "/ok"],
    ["/ok//./file", "/ok/file"],
    ["/ok/new", "/ok/new"],
    ["/ok/sub/new/deep", "/ok/sub/new/deep"],
    ["/way/file", "/ok/file"],
    ["/ok/sub/../file", "/ok/file"],
    ["/okay/file", null],
    ["/etc/shadow", null],
    ["/ok/../etc/shadow", null],
    ["/ok/out/shadow", null],
    ["/ok/out/new", null],
    ["/ok/new/../../etc/shadow", null],
    ["/ok/sub/../../etc/shadow", null],
    ["ok/file", null],
    ["", null],
    ["/ok/file\0/x", null],
  ];
  for (const [path, expected] of cases) {
    assertEquals(checkPathInside(path, ["/ok"], { realPath }), expected, path);
  }
});

Deno.test("a folder may be named by a link, the root allows everything, none allows nothing", () => {
  assertEquals(checkPathInside("/ok/file", ["/way"], { realPath }), "/ok/file");
  assertEquals(checkPathInside("/etc/shadow", ["/"], { realPath }), "/etc/shadow");
  assertEquals(checkPathInside("/ok/file", [], { realPath }), null);
  assertEquals(checkPathInside("/ok/file", ["/absent"], { realPath }), null);
});
