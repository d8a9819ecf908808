// Holds the two ends' disks against each other after a migration. The guest has gone on writing at the
// destination, so that some sectors differ; each of those must hold a stamp that is newer than the
// guest's last turn at the source. All others must be equal, byte for byte.

import { AgentError } from "../src/base/errors.ts";
import { parseStamp } from "../src/demo_guest/guest.ts";

const SECTOR = 512;
const CHUNK = 2 ** 20;

export interface DiskProof {
  path: string;
  sectors: number;
  /** Sectors that the guest has written since the switch. */
  newer: number;
}

/** @throws AgentError `disks_differ` that names the first sector with no excuse */
export async function proveDisk(
  disks: {
    source: string;
    destination: string;
    format: "raw" | "qcow2";
    /** For raw copies of images in other formats. */
    folder: string;
    /** The guest's counter when it stopped at the source. */
    lastSourceTurn: number;
  },
  signal: AbortSignal,
): Promise<DiskProof> {
  const { format, folder, lastSourceTurn } = disks;
  const paths: string[] = [];
  for (const [name, path] of [["source", disks.source], ["destination", disks.destination]]) {
    paths.push(
      format === "raw" ? path! : await toRaw(path!, { to: `${folder}/${name}.raw`, signal }),
    );
  }
  using source = await Deno.open(paths[0]!);
  using destination = await Deno.open(paths[1]!);
  const [{ size }, { size: otherSize }] = await Promise.all([source.stat(), destination.stat()]);
  if (size !== otherSize) throw differ(disks.destination, `${otherSize} bytes instead of ${size}`);
  const a = new Uint8Array(CHUNK);
  const b = new Uint8Array(CHUNK);
  let newer = 0;
  for (let at = 0; at < size; at += CHUNK) {
    const length = Math.min(CHUNK, size - at);
    await Promise.all([
      readFull(source, a.subarray(0, length)),
      readFull(destination, b.subarray(0, length)),
    ]);
    for (let offset = 0; offset < length; offset += SECTOR) {
      const was = a.subarray(offset, offset + SECTOR);
      const is = b.subarray(offset, offset + SECTOR);
      if (was.every((byte, i) => byte === is[i])) continue;
      if ((parseStamp(is) ?? 0) < lastSourceTurn) {
        throw differ(disks.destination, `sector ${(at + offset) / SECTOR} is not the source's`);
      }
      newer++;
    }
  }
  return { path: disks.destination, sectors: Math.ceil(size / SECTOR), newer };
}

async function readFull(file: Deno.FsFile, buffer: Uint8Array): Promise<void> {
  for (let at = 0; at < buffer.length;) {
    const count = await file.read(buffer.subarray(at));
    if (count === null) throw new AgentError("disks_differ", "A disk ended before its size");
    at += count;
  }
}

async function toRaw(
  path: string,
  { to, signal }: { to: string; signal: AbortSignal },
): Promise<string> {
  const args = ["convert", "-f", "qcow2", "-O", "raw", path, to];
  const { success, stderr } = await new Deno.Command("qemu-img", { args, signal }).output();
  if (success) return to;
  throw new AgentError(
    "demo_failed",
    `qemu-img failed: ${new TextDecoder().decode(stderr).trim()}`,
  );
}

function differ(path: string, how: string): AgentError {
  return new AgentError("disks_differ", `The disk '${path}' differs from its source: ${how}`);
}
