// One process at a time in a folder, by flock(2) on a file in it: it ends with the process that holds
// it, however that ends.

import { delay } from "../base/deadline.ts";
import { AgentError, describeError, quote } from "../base/errors.ts";

const LOCK_NAME = ".lock";
/** Whoever has the lock holds it for a few milliseconds, unless it was stopped. */
const LIMIT_MS = 10_000;
const AGAIN_MS = 20;

/** @throws AgentError `state_folder_locked` after ten seconds, `state_folder_unusable`, or what `work` throws */
export async function withFolderLock<T>(folder: string, work: () => Promise<T>): Promise<T> {
  using file = await openLock(`${folder}/${LOCK_NAME}`);
  const end = performance.now() + LIMIT_MS;
  // Not `lock`, whose wait nothing can end.
  while (!await file.tryLock(true)) {
    if (performance.now() > end) throw locked(folder);
    await delay(AGAIN_MS);
  }
  return await work();
}

async function openLock(path: string): Promise<Deno.FsFile> {
  try {
    return await Deno.open(path, { write: true, create: true, mode: 0o600 });
  } catch (cause) {
    throw new AgentError(
      "state_folder_unusable",
      `Cannot open the lock ${quote(path)}: ${describeError(cause)}`,
      { kind: "refused", hint: "Name a folder of this user by --state-dir.", cause },
    );
  }
}

function locked(folder: string): AgentError {
  return new AgentError(
    "state_folder_locked",
    `The state folder ${quote(folder)} has been locked by another process for ${LIMIT_MS / 1000} s`,
    { kind: "refused", hint: `See who holds ${folder}/${LOCK_NAME}: it may have been stopped.` },
  );
}
