import { assert, assertEquals, assertRejects } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import type { Disk } from "../../../src/guest/params.ts";
import { type DiskPlacement, mapPath, planTargets } from "../../../src/guest/target_disks.ts";
import { makeImage } from "../../lib/disks.ts";
import { requires } from "../../lib/requires.ts";
import { TempDir } from "../../lib/temp.ts";
import { makeDisk } from "./command_line/fixtures.ts";

const NOWHERE: DiskPlacement = {
  diskDir: null,
  diskPaths: [],
  pathMaps: [],
  reuseDisks: false,
  allowDirs: [],
};

function plan(disks: Disk[], placement: Partial<DiskPlacement>) {
  return planTargets(disks, { ...NOWHERE, ...placement });
}

async function refused(
  code: string,
  disks: Disk[],
  placement: Partial<DiskPlacement>,
): Promise<AgentError> {
  const error = await assertRejects(() => plan(disks, placement), AgentError);
  assertEquals([error.code, error.kind, error.side], [code, "refused", "destination"]);
  return error;
}

Deno.test("mapPath: whole parts only, the longest rule first, slashes as given", () => {
  const placement = {
    ...NOWHERE,
    pathMaps: [{ from: "/a", to: "/x" }, { from: "/a/b/", to: "/y/" }, { from: "/f", to: "/g/f2" }],
  };
  const cases: [string, string | null][] = [
    ["/a/c.raw", "/x/c.raw"],
    ["/a/b/c.raw", "/y/c.raw"],
    ["/ab/c.raw", null],
    ["/f", "/g/f2"],
    ["/a", "/x"],
  ];
  for (const [path, mapped] of cases) assertEquals(mapPath(path, placement), mapped, path);
});

Deno.test("a place for each: --disk before --path-map before --disk-dir; nothing is changed", async () => {
  await using temp = await TempDir.create();
  const disks = ["a", "b", "c"].map((name) => makeDisk({ name, path: `/src/${name}.raw` }));
  const targets = await plan(disks, {
    diskDir: temp.path,
    diskPaths: [{ name: "a", path: temp.file("named.raw") }],
    pathMaps: [{ from: "/src/b.raw", to: temp.file("mapped.raw") }, {
      from: "/src/a.raw",
      to: temp.file("never.raw"),
    }],
  });
  assertEquals(targets.map(({ path }) => path), [
    temp.file("named.raw"),
    temp.file("mapped.raw"),
    temp.file("c.raw"),
  ]);
  assert(targets.every(({ create, protocol }) => create && protocol === "file"));
  assertEquals([...Deno.readDirSync(temp.path)], []);
});

Deno.test("a chain is told to be copied flat; an empty drive has no place", async () => {
  await using temp = await TempDir.create();
  const [flat, empty] = await plan([
    makeDisk({ name: "a", backing: ["/src/base"] }),
    makeDisk({ name: "cd", action: "empty", path: null, removable: true }),
  ], { diskDir: temp.path });
  assertEquals(flat?.note, "backing chain copied flat");
  assertEquals([empty?.path, empty?.create], [null, false]);
});

Deno.test("present media: opened where they are, left out with a word when they are not", async () => {
  await using temp = await TempDir.create();
  await Deno.writeTextFile(temp.file("cd.iso"), "");
  const cd = { action: "present", read_only: true, removable: true, kind: "cdrom" } as const;
  const [here, gone] = await plan([
    makeDisk({ name: "cd0", ...cd, path: temp.file("cd.iso") }),
    makeDisk({ name: "cd1", ...cd, path: temp.file("gone.iso") }),
  ], { allowDirs: [temp.path] });
  assertEquals([here?.path, here?.create, here?.note], [temp.file("cd.iso"), false, null]);
  assertEquals(gone?.path, null);
  assert(gone?.note?.includes("is not here: left out"));
});

Deno.test("refused: a shared disk, or a fixed read-only one, that is not here", async () => {
  await using temp = await TempDir.create();
  const path = temp.file("gone.raw");
  const allowed = { allowDirs: [temp.path] };
  await refused("disk_missing", [makeDisk({ name: "a", action: "shared", path })], allowed);
  const fixed = makeDisk({ name: "a", action: "present", read_only: true, path });
  await refused("disk_missing", [fixed], allowed);
});

Deno.test("refused: no place was named", async () => {
  const error = await refused("no_place_for_disk", [makeDisk({ name: "a" })], {});
  assert(error.hint?.includes("--disk a=PATH"));
});

Deno.test("refused: a name that no disk has", async () => {
  const diskPaths = [{ name: "z", path: "/d/z" }];
  await refused("unknown_disk", [makeDisk({ name: "a" })], { diskPaths });
});

Deno.test("refused: a target that exists already", async () => {
  await using temp = await TempDir.create();
  await Deno.writeTextFile(temp.file("a"), "precious");
  await refused("target_exists", [makeDisk({ name: "a" })], { diskDir: temp.path });
  assertEquals(await Deno.readTextFile(temp.file("a")), "precious");
});

Deno.test("refused: two disks in one place", async () => {
  await using temp = await TempDir.create();
  const disks = ["a", "b"].map((name) => makeDisk({ name, path: `/${name}/disk.raw` }));
  await refused("target_twice", disks, { diskDir: temp.path });
});

Deno.test("refused: a folder that is not there", async () => {
  await using temp = await TempDir.create();
  const diskPaths = [{ name: "a", path: temp.file("no/such/a.raw") }];
  await refused("no_such_folder", [makeDisk({ name: "a" })], { diskPaths });
});

Deno.test("refused: more than is free", async () => {
  await using temp = await TempDir.create();
  const disk = makeDisk({ name: "a", allocated_bytes: 2 ** 60 });
  const error = await refused("disk_full", [disk], { diskDir: temp.path });
  assert(error.message.includes(`${2 ** 60} bytes needed`));
});

Deno.test("refused: what the sender's paths lead out of the folders, by '..' or a link", async () => {
  await using temp = await TempDir.create();
  await Deno.mkdir(temp.file("in"));
  await Deno.symlink("/etc", temp.file("in/link"));
  const shared = { name: "a", action: "shared" } as const;
  const allowed = { allowDirs: [temp.file("in")] };
  for (const path of ["/etc/passwd", temp.file("in/../x"), temp.file("in/link/passwd")]) {
    await refused("disk_outside_folders", [makeDisk({ ...shared, path })], allowed);
  }
  const pathMaps = [{ from: "/src", to: temp.file("in") }];
  const climbing = makeDisk({ name: "a", path: "/src/../../../etc/passwd" });
  await refused("disk_outside_folders", [climbing], { pathMaps });
});

Deno.test("refused: a path that is no place for a file", async () => {
  await using temp = await TempDir.create();
  await Deno.writeTextFile(temp.file("file"), "");
  const diskPaths = [{ name: "a", path: temp.file("file/a.raw") }];
  await refused("path_unusable", [makeDisk({ name: "a" })], { diskPaths });
});

Deno.test({
  name: "--reuse-disks: the size must be the source's, and nobody may have it open",
  ...requires("qemu-img"),
  fn: async () => {
    await using temp = await TempDir.create();
    const path = temp.file("a");
    await Deno.writeFile(path, new Uint8Array(1 << 20));
    const reuse = { diskDir: temp.path, reuseDisks: true };
    const [target] = await plan([makeDisk({ name: "a" })], reuse);
    assertEquals([target?.create, target?.path], [false, path]);
    const larger = makeDisk({ name: "a", virtual_size_bytes: 2 << 20 });
    await refused("target_size", [larger], reuse);
    const other = makeDisk({ name: "a", format: "qcow2" });
    await refused("image_unusable", [other], reuse);
    using _open = await Deno.open(path);
    await refused("target_in_use", [makeDisk({ name: "a" })], reuse);
  },
});

Deno.test({
  name: "refused: an image that is here and names files outside the folders",
  ...requires("qemu-img"),
  async fn() {
    await using inside = await TempDir.create();
    await using outside = await TempDir.create();
    const signal = AbortSignal.timeout(20_000);
    const size = { format: "qcow2", sizeBytes: 2 ** 20, signal } as const;
    for (const folder of [inside, outside]) await makeImage(folder.file("base"), size);
    const overlay = async (name: string, base: string) => {
      const backing = { path: base, format: "qcow2" } as const;
      await makeImage(inside.file(name), { ...size, backing });
      return inside.file(name);
    };
    const good = await overlay("good", inside.file("base"));
    const bad = await overlay("bad", outside.file("base"));
    const worse = await overlay("worse", bad); // one further down
    const disk = { name: "a", action: "shared", format: "qcow2" } as const;
    const allowed = { allowDirs: [inside.path] };
    await plan([makeDisk({ ...disk, path: good })], allowed);
    await plan([makeDisk({ ...disk, format: "raw", path: bad })], allowed);
    for (const path of [bad, worse]) {
      await refused("image_names_other_file", [makeDisk({ ...disk, path })], allowed);
    }
    // What is to be overwritten is to be whole in itself.
    const target = makeDisk({ ...disk, action: "mirror", virtual_size_bytes: 2 ** 20, path: "/a" });
    const reuse = { diskPaths: [{ name: "a", path: good }], reuseDisks: true };
    await refused("image_names_other_file", [target], { ...allowed, ...reuse });
  },
});
