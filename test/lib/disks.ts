// Disk images for tests: made, compared by what a guest would see, looked at for sparseness.

import { capture, run } from "./command.ts";

export type ImageFormat = "raw" | "qcow2";

export interface ImageOptions {
  format: ImageFormat;
  /** Virtual size in bytes; any number for raw, a multiple of 512 for qcow2. */
  sizeBytes: number;
  /** Written at the start of the disk, such as the tiny guest's boot program. */
  content?: Uint8Array;
  /** qcow2 only: a backing file and its format. */
  backing?: { path: string; format: ImageFormat };
  signal: AbortSignal;
}

/** Makes a sparse image at `path`. */
export async function makeImage(path: string, options: ImageOptions): Promise<void> {
  const { format, sizeBytes, content, backing, signal } = options;
  if (format === "raw") {
    await Deno.writeFile(path, content ?? new Uint8Array(), { createNew: true });
    await Deno.truncate(path, sizeBytes);
    return;
  }
  const backingArgs = backing ? ["-b", backing.path, "-F", backing.format] : [];
  await run(
    ["qemu-img", "create", "-q", "-f", format, ...backingArgs, path, String(sizeBytes)],
    signal,
  );
  if (!content) return;
  const raw = `${path}.content`;
  await Deno.writeFile(raw, content, { createNew: true });
  try {
    await run(["qemu-img", "convert", "-n", "-f", "raw", "-O", format, raw, path], signal);
  } finally {
    await Deno.remove(raw);
  }
}

export interface Image {
  path: string;
  format: ImageFormat;
}

/**
 * Checks that two images hold the same disk: size and every byte a guest would read. Works while a
 * (stopped) QEMU has them open. @throws Error with what qemu-img says and where they differ
 */
export async function assertSameDisk(a: Image, b: Image, signal: AbortSignal): Promise<void> {
  const argv = ["qemu-img", "compare", "-U", "-f", a.format, "-F", b.format, a.path, b.path];
  const { code, stdout, stderr } = await capture(argv, signal);
  // A shorter image followed by nothing but zeros counts as identical there, with a warning.
  if (code === 0 && !/size mismatch/i.test(stdout + stderr)) return;
  throw new Error(`Disks '${a.path}' and '${b.path}' differ: ${stdout}${stderr}`);
}

/** Virtual size in bytes, also while a QEMU has the image open. */
export async function virtualSize(image: Image, signal: AbortSignal): Promise<number> {
  const text = await run(
    ["qemu-img", "info", "-U", "-f", image.format, "--output=json", image.path],
    signal,
  );
  const info = JSON.parse(text) as { "virtual-size": number };
  return info["virtual-size"];
}

/** Bytes that the file occupies in its file system. */
export async function allocatedBytes(path: string): Promise<number> {
  return 512 * ((await Deno.stat(path)).blocks ?? 0);
}

/** `sizeBytes` bytes (at most 64 MiB) that no image format or transport can leave out or shrink. */
export function makeNoise(sizeBytes: number): Uint8Array<ArrayBuffer> {
  const noise = new Uint8Array(sizeBytes);
  for (let at = 0; at < sizeBytes; at += 65536) {
    crypto.getRandomValues(noise.subarray(at, Math.min(at + 65536, sizeBytes)));
  }
  return noise;
}
