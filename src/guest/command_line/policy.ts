// What a receiver lets a command line from the network open on its host. The rules are the
// receiver's own; nothing of them comes from the peer. Specification: docs/launch.md, "Policy".

/** Where distributions keep QEMU's firmware and ROMs: worth being readable. */
export const QEMU_DATA_FOLDERS: readonly string[] = [
  "/usr/share/qemu",
  "/usr/share/qemu-kvm",
  "/usr/share/seabios",
  "/usr/share/ipxe",
  "/usr/lib/ipxe",
  "/usr/share/OVMF",
  "/usr/share/ovmf",
  "/usr/share/edk2",
];

export interface Policy {
  /** Folders whose files QEMU may read: kernels, firmware, ROMs, read-only media. */
  readFolders: readonly string[];
  /** Folders whose files QEMU may write: memory files, character device logs. */
  writeFolders: readonly string[];
  /** Host bridges that a guest may be attached to. */
  bridges: readonly string[];
  /** A VNC display on a TCP port, as the source had it. */
  allowVnc: boolean;
  /** `netdev.net0.ifname` and the like to a value; an empty value takes the key away. */
  overrides: ReadonlyMap<string, string>;
}

/** The path with all symbolic links resolved, or null when nothing is there. */
export type RealPath = (path: string) => string | null;

/**
 * `path` with symbolic links and `..` resolved when that is inside one of `folders`, else null. A
 * file that is not there yet is judged by its deepest folder that is.
 */
export function checkPathInside(
  path: string,
  folders: readonly string[],
  options: { realPath: RealPath },
): string | null {
  if (!path.startsWith("/") || path.includes("\0")) return null;
  const parts = path.split("/").filter((part) => part !== "" && part !== ".");
  for (let known = parts.length; known >= 0; known--) {
    const real = options.realPath("/" + parts.slice(0, known).join("/"));
    if (real === null) continue;
    const missing = parts.slice(known);
    // A '..' below something that is not there could only be judged by guessing.
    if (missing.includes("..")) return null;
    const resolved = [real === "/" ? "" : real, ...missing].join("/") || "/";
    return folders.some((folder) => isInside(resolved, folder, options.realPath)) ? resolved : null;
  }
  return null;
}

function isInside(resolved: string, folder: string, realPath: RealPath): boolean {
  const real = realPath(folder);
  if (real === null) return false;
  return resolved === real || resolved.startsWith(real === "/" ? "/" : real + "/");
}
