// What rewriting a command line needs to know of this host, and what it leaves behind: paths that
// were checked, files that QEMU will make, warnings. Specification: docs/launch.md.

import { quote } from "../../base/errors.ts";
import type { QemuParams } from "../params.ts";
import { type Option, refuse } from "./options.ts";
import { checkPathInside, type Policy, type RealPath } from "./policy.ts";

export interface DestinationDisk {
  /** Absolute path of the image here. */
  path: string;
  /** What the path is. */
  protocol: "file" | "host_device";
}

export interface DestinationSettings {
  /** The QMP socket that QEMU makes. */
  qmpPath: string;
  pidFile: string;
  /** QEMU's own log (`-D`); null for none. */
  logFile: string | null;
  /** Where sockets and files go whose place at the source means nothing here. */
  runDir: string;
  /** Per disk of the params, by its name: its image here, or null to leave the medium out. */
  disks: ReadonlyMap<string, DestinationDisk | null>;
  /** A path of the source as it is called here; null when no rule says so: then the same. */
  pathFor: (sourcePath: string) => string | null;
  realPath: RealPath;
  policy: Policy;
}

/** A socket or file that the destination's QEMU makes in place of one of the source's. */
export interface ReplacedFile {
  /** What it belongs to: `chardev mon0`, `serial 0`. */
  owner: string;
  path: string;
  kind: "socket" | "file";
}

/** sockaddr_un.sun_path without its final zero byte. */
const MAX_SOCKET_PATH_BYTES = 107;

/** One rewriting: settings in, warnings and files out. */
export class Destination {
  readonly params: QemuParams;
  readonly settings: DestinationSettings;
  readonly warnings: string[] = [];
  readonly files: ReplacedFile[] = [];

  constructor(params: QemuParams, settings: DestinationSettings) {
    this.params = params;
    this.settings = settings;
  }

  get policy(): Policy {
    return this.settings.policy;
  }

  /** `text` may hold what the peer wrote: it is cleaned and cut. */
  warn(text: string): void {
    const clean = quote(text, 500).slice(1, -1);
    if (!this.warnings.includes(clean)) this.warnings.push(clean);
  }

  /** The file here that a source path stands for, which QEMU will read. */
  readable(option: Option, sourcePath: string): string {
    const { readFolders, writeFolders } = this.policy;
    const folders = [...readFolders, ...writeFolders];
    const path = this.#inside(option, { sourcePath, folders });
    if (this.settings.realPath(path) === null) {
      refuse(option, `names ${quote(path)}, which is not here`, "copy it here, or map the path");
    }
    return path;
  }

  /** As `readable`; a name without a slash stays, since QEMU looks for it among its own data. */
  firmware(option: Option, sourceName: string): string {
    return sourceName.includes("/") ? this.readable(option, sourceName) : sourceName;
  }

  /** The file or folder here that a source path stands for, which QEMU will write. */
  writable(option: Option, sourcePath: string): string {
    return this.#inside(option, { sourcePath, folders: this.policy.writeFolders });
  }

  /** As `writable`, or null when no rule or folder allows it. */
  writableOrNull(sourcePath: string): string | null {
    return checkPathInside(this.#map(sourcePath), this.policy.writeFolders, this.settings);
  }

  /** A new socket in the run folder. */
  newSocket(option: Option, owner: string): string {
    const path = this.#newFile(owner, "socket");
    if (new TextEncoder().encode(path).length > MAX_SOCKET_PATH_BYTES) {
      refuse(
        option,
        `needs a socket whose path is too long: ${quote(path)}`,
        `${MAX_SOCKET_PATH_BYTES} bytes are allowed: use a shorter run folder`,
      );
    }
    return path;
  }

  /** A new file in the run folder. */
  newFile(owner: string): string {
    return this.#newFile(owner, "file");
  }

  #newFile(owner: string, kind: ReplacedFile["kind"]): string {
    const suffix = kind === "socket" ? ".sock" : ".log";
    const base = `${this.settings.runDir}/${owner.replace(/[^A-Za-z0-9_-]/g, "_").slice(0, 64)}`;
    const taken = new Set(this.files.map(({ path }) => path));
    let path = base + suffix;
    for (let n = 2; taken.has(path); n++) path = `${base}-${n}${suffix}`;
    this.files.push({ owner, path, kind });
    return path;
  }

  #map(sourcePath: string): string {
    return this.settings.pathFor(sourcePath) ?? sourcePath;
  }

  #inside(
    option: Option,
    { sourcePath, folders }: { sourcePath: string; folders: readonly string[] },
  ): string {
    const mapped = this.#map(sourcePath);
    if (!mapped.startsWith("/")) {
      refuse(option, `names ${quote(mapped)} relative to a folder of the source host`);
    }
    const resolved = checkPathInside(mapped, folders, this.settings);
    if (resolved === null) {
      refuse(
        option,
        `names ${quote(mapped)}, which is outside the folders that are allowed here`,
        `allowed: ${folders.join(", ") || "none"}; a path map may lead there`,
      );
    }
    return resolved;
  }
}
