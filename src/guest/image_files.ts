// Image files at the destination: made with exactly the source's virtual size, removed, looked at.
// Raw files are made here, other formats by qemu-img. Decides nothing about where a disk goes.

import { AgentError, describeError, quote } from "../base/errors.ts";
import type { RegisterUndo, TargetDisk } from "./destination.ts";
import type { Disk } from "./params.ts";
import { findProcesses } from "./proc.ts";

/**
 * Makes an empty image for `disk` at `path`, which must not exist. `onCreated` is called as soon as
 * the file is there and known to be ours: from then on it is to be removed when something fails,
 * and not a moment earlier, because until then it may be somebody else's.
 */
async function createImage(
  disk: Disk,
  path: string,
  options: { onCreated: (file: Deno.FsFile) => Promise<void>; signal: AbortSignal },
): Promise<void> {
  try {
    // Exclusively: between the plan and now somebody else may have come.
    using file = await Deno.open(path, { write: true, createNew: true, mode: 0o600 });
    await options.onCreated(file);
    if (disk.format === "raw") {
      await file.truncate(disk.virtual_size_bytes);
      return;
    }
  } catch (cause) {
    throw new AgentError(
      "target_not_created",
      `Cannot create target disk ${quote(path)}: ${describeError(cause)}`,
      { side: "destination", cause },
    );
  }
  const format = disk.format === "qcow2" && disk.cluster_size_bytes > 0
    ? ["-o", `cluster_size=${disk.cluster_size_bytes}`]
    : [];
  await runQemuImg(
    ["create", "-q", "-f", disk.format, ...format, "--", path, String(disk.virtual_size_bytes)],
    options.signal,
  );
}

/** Makes every target that is to be made, each with its undo. */
export async function makeTargets(
  targets: readonly TargetDisk[],
  options: { onEffect: RegisterUndo; signal: AbortSignal },
): Promise<void> {
  for (const { disk, path, create } of targets) {
    if (!create || path === null) continue;
    const onCreated = async (file: Deno.FsFile) => {
      const { dev, ino } = await file.stat();
      const remain = { kind: "file" as const, path, dev, ino: ino! };
      await options.onEffect(`remove ${path}`, () => removeImage(path), remain);
    };
    await createImage(disk, path, { onCreated, signal: options.signal });
  }
}

/** Removes an image; it may be gone already. */
async function removeImage(path: string): Promise<void> {
  try {
    await Deno.remove(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

/** Runs qemu-img; its stdout. @throws AgentError with what it printed on stderr */
async function runQemuImg(args: string[], signal: AbortSignal): Promise<string> {
  let output: Deno.CommandOutput;
  try {
    output = await new Deno.Command("qemu-img", { args, signal, stdin: "null" }).output();
  } catch (cause) {
    throw new AgentError("qemu_img_missing", `Cannot run qemu-img: ${describeError(cause)}`, {
      side: "destination",
      cause,
      hint: "install QEMU's tools (Debian: qemu-utils)",
    });
  }
  const text = new TextDecoder();
  if (output.success) return text.decode(output.stdout);
  throw new AgentError(
    "qemu_img_failed",
    `qemu-img ${args[0]} failed: ${text.decode(output.stderr).trim()}`,
    { side: "destination" },
  );
}

/** An image's virtual size; QEMU's own lock makes this fail when somebody writes to it. */
export async function checkReusedSize(
  disk: Disk,
  target: { path: string; isBlockDevice: boolean },
): Promise<void> {
  const { path } = target;
  const info = await readImageInfo({ path, format: disk.format }, { inUse: false });
  const size = Number((info as { "virtual-size": unknown })["virtual-size"]);
  const fits = size === disk.virtual_size_bytes ||
    (target.isBlockDevice && disk.format === "raw" && size >= disk.virtual_size_bytes);
  if (fits) return;
  throw refusal(
    "target_size",
    `Target ${quote(path)} has ${size} bytes, disk ${
      quote(disk.name)
    } has ${disk.virtual_size_bytes}`,
    "the sizes must be equal (a block device may be larger)",
  );
}

/**
 * What qemu-img says of an image, without opening what it is based on.
 * @param options.inUse whether somebody may have it open for writing (QEMU's own locks)
 * @throws AgentError `image_unusable` (kind refused)
 */
export async function readImageInfo(
  { path, format }: { path: string; format: string },
  options: { inUse: boolean },
): Promise<unknown> {
  const force = options.inUse ? ["--force-share"] : [];
  const args = ["info", "--output=json", ...force, "-f", format, "--", path];
  try {
    return JSON.parse(await runQemuImg(args, AbortSignal.timeout(60_000)));
  } catch (cause) {
    throw refusal(
      "image_unusable",
      `Cannot use ${quote(path)} as a ${format} image: ${describeError(cause)}`,
    );
  }
}

/** Refuses a file that any process of this host has open. */
export async function refuseInUse(path: string): Promise<void> {
  const real = await Deno.realPath(path);
  const isBlockDevice = (await Deno.stat(real)).isBlockDevice;
  const [holder] = await findProcesses((target) => target === real);
  if (holder !== undefined) {
    throw refusal(
      "target_in_use",
      `Target ${quote(path)} is open in process ${holder}`,
      isBlockDevice ? "unmount it or end that process" : "end that process first",
    );
  }
  const mounts = await Deno.readTextFile("/proc/self/mounts");
  if (isBlockDevice && mounts.split("\n").some((line) => line.split(" ")[0] === real)) {
    throw refusal("target_in_use", `Target ${quote(path)} is mounted`, "unmount it");
  }
}

/** Free bytes of the file system that holds `folder`, by coreutils' `stat` (statfs(2)). */
export async function freeBytes(folder: string): Promise<number> {
  const { success, stdout, stderr } = await new Deno.Command("stat", {
    args: ["--file-system", "--format=%a %S", "--", folder],
  }).output();
  const [blocks, size] = new TextDecoder().decode(stdout).trim().split(" ").map(Number);
  if (success && blocks !== undefined && size !== undefined) return blocks * size;
  throw new AgentError(
    "stat_failed",
    `Cannot tell the free space of ${quote(folder)}: ${new TextDecoder().decode(stderr).trim()}`,
    { side: "destination" },
  );
}

export async function statOrNull(path: string): Promise<Deno.FileInfo | null> {
  try {
    return await Deno.stat(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw refusal("path_unusable", `Cannot look at ${quote(path)}: ${describeError(error)}`);
  }
}

/**
 * The path without symbolic links; null when nothing is there.
 * @throws AgentError `path_refused` for a link that leads nowhere (whoever creates the file would
 * follow it), and for what the system cannot look up (too long, a circle of links)
 */
export function realPathOrNull(path: string): string | null {
  try {
    return Deno.realPathSync(path);
  } catch (error) {
    const isAbsent = error instanceof Deno.errors.NotFound ||
      error instanceof Deno.errors.NotADirectory;
    if (isAbsent && !isLink(path)) return null;
    throw refusal("path_refused", `Cannot use the path ${quote(path)}: ${describeError(error)}`);
  }
}

function isLink(path: string): boolean {
  try {
    return Deno.lstatSync(path).isSymlink;
  } catch {
    return false; // nothing there at all
  }
}

/** A check at the destination said no; nothing was changed. */
export function refusal(code: string, message: string, hint?: string): AgentError {
  return new AgentError(code, message, {
    kind: "refused",
    side: "destination",
    ...(hint ? { hint } : {}),
  });
}
