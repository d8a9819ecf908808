// Writes what the page cache holds of disk images to the disks, ahead of the switchover. QEMU flushes
// every image while the guest is stopped: what is left for that flush is a part of the pause.

import { abortable } from "../base/deadline.ts";

/** fsync(2) of every path, all at once. */
export async function flushImages(paths: readonly string[], signal: AbortSignal): Promise<void> {
  const flushes = paths.map(async (path) => {
    using file = await Deno.open(path, { read: true, write: true });
    await file.sync();
  });
  await abortable(Promise.all(flushes), signal);
}
