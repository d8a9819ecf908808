// A disk image with the ways of a dying disk: sectors that cannot be read or written, requests that
// take their time. An ordinary file to whoever opens it; behind it QEMU's storage daemon (FUSE).
// Needs root and /dev/fuse.

import { QmpClient } from "../../src/qmp/client.ts";
import { abortable } from "../../src/base/deadline.ts";
import { makeImage } from "../lib/disks.ts";
import { TempDir } from "../lib/temp.ts";

/** What `requires` must be asked for. */
export const SICK_DISK_NEEDS = ["qemu-storage-daemon", "setpriv", "root"] as const;

/** EIO */
const IO_ERROR = 5;

export interface SickDiskOptions {
  sizeBytes: number;
  /** Written at its start. */
  content?: Uint8Array;
  /** Sectors of 512 bytes that give an I/O error. */
  badSectors?: readonly { sector: number; on: "read" | "write" }[];
  /** At most so many requests a second; 0: no limit. */
  requestsPerS?: number;
  signal: AbortSignal;
}

export class SickDisk implements AsyncDisposable {
  readonly path: string;
  readonly #qmp: QmpClient;
  readonly #daemon: Deno.ChildProcess;
  readonly #temp: TempDir;

  private constructor(
    path: string,
    parts: { qmp: QmpClient; daemon: Deno.ChildProcess; temp: TempDir },
  ) {
    this.path = path;
    this.#qmp = parts.qmp;
    this.#daemon = parts.daemon;
    this.#temp = parts.temp;
  }

  /** Makes it at `path`, where nothing may be yet. */
  static async start(path: string, options: SickDiskOptions): Promise<SickDisk> {
    const { sizeBytes, content, signal } = options;
    const temp = await TempDir.create();
    await makeImage(temp.file("image"), {
      format: "raw",
      sizeBytes,
      signal,
      ...(content ? { content } : {}),
    });
    await Deno.writeFile(path, new Uint8Array(), { createNew: true });
    // The daemon connects to the test: by its greeting all that stands before that is done.
    using listener = Deno.listen({ transport: "unix", path: temp.file("qmp") });
    const daemon = new Deno.Command("setpriv", {
      args: ["--pdeathsig", "TERM", "qemu-storage-daemon", ...daemonArgs(path, temp, options)],
      stdin: "null",
    }).spawn();
    const died = new AbortController();
    daemon.status.then(() => died.abort(new Error("qemu-storage-daemon ended: no FUSE?")));
    const either = AbortSignal.any([signal, died.signal]);
    try {
      const conn = await abortable(listener.accept(), either);
      const qmp = await QmpClient.open(temp.file("qmp"), conn, { signal: either });
      return new SickDisk(path, { qmp, daemon, temp });
    } catch (error) {
      await endDaemon(daemon);
      await temp[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** From now on at most so many requests a second; 0: no limit. */
  async limit(requestsPerS: number, signal: AbortSignal): Promise<void> {
    const value = { "iops-total": requestsPerS };
    await this.#qmp.execute("qom-set", {
      path: "/objects/pace",
      property: "limits",
      value,
    }, { signal });
  }

  /** Ends it; the file stays as the empty one that it was mounted on, if it was not removed. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#qmp.close();
    await endDaemon(this.#daemon);
    await this.#temp[Symbol.asyncDispose]();
  }
}

function daemonArgs(path: string, temp: TempDir, options: SickDiskOptions): string[] {
  const { badSectors = [], requestsPerS = 0 } = options;
  const errors = badSectors.map(({ sector, on }) => ({
    event: "none",
    iotype: on,
    errno: IO_ERROR,
    sector,
  }));
  const nodes = [
    { driver: "file", "node-name": "image", filename: temp.file("image") },
    {
      driver: "blkdebug",
      "node-name": "sick",
      image: "image",
      ...(errors.length > 0 ? { "inject-error": errors } : {}),
    },
    { driver: "throttle", "node-name": "slow", "throttle-group": "pace", file: "sick" },
  ];
  return [
    ...["--object", `throttle-group,id=pace,x-iops-total=${requestsPerS}`],
    ...nodes.flatMap((node) => ["--blockdev", JSON.stringify(node)]),
    ...["--export", `type=fuse,id=export,node-name=slow,mountpoint=${path},writable=on`],
    ...["--chardev", `socket,id=qmp,path=${temp.file("qmp")}`, "--monitor", "chardev=qmp"],
  ];
}

/** SIGTERM: it takes its file system away before it ends. */
async function endDaemon(daemon: Deno.ChildProcess): Promise<void> {
  try {
    daemon.kill("SIGTERM");
  } catch (error) {
    if (!(error instanceof TypeError)) throw error; // it has ended
  }
  await daemon.status;
}
