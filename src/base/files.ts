// The little that several parts do with files alike.

/** Removes a file, link, socket or empty folder that may be gone already. */
export async function removeIfThere(path: string): Promise<void> {
  try {
    await Deno.remove(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}
