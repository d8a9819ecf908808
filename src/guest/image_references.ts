// Images that name other files: a backing file, a data file, extents. The bytes of an image may have
// come from a peer, in an earlier migration, and QEMU opens whatever they name: so an image that was
// not made here and now may only name files in the folders that its own path must be in.
// Specification: QEMU's docs/interop/qcow2, and `qemu-img info --output=json`.

import * as v from "valibot";
import { AgentError, quote } from "../base/errors.ts";
import { readImageInfo } from "./image_files.ts";

/** Longest chain of backing files that is followed. */
const MAX_CHAIN = 200;

const InfoSchema = v.object({
  "full-backing-filename": v.optional(v.string()),
  "backing-filename-format": v.optional(v.string()),
  "format-specific": v.optional(v.object({
    data: v.optional(v.object({
      "data-file": v.optional(v.string()),
      extents: v.optional(v.array(v.object({ filename: v.string() }))),
    })),
  })),
});

/**
 * Refuses the image at `path`, or one below it, that names a file for which `isAllowed` does not hold.
 * @throws AgentError `image_names_other_file` (kind refused)
 */
export async function refuseForeignReferences(
  image: { path: string; format: string },
  isAllowed: (path: string) => boolean,
): Promise<void> {
  let { path, format } = image;
  for (let depth = 0; depth < MAX_CHAIN; depth++) {
    if (format === "raw") return;
    // A shared disk is open at the source.
    const info = v.parse(InfoSchema, await readImageInfo({ path, format }, { inUse: true }));
    const { "data-file": dataFile, extents = [] } = info["format-specific"]?.data ?? {};
    const backing = info["full-backing-filename"];
    const named = [backing, dataFile, ...extents.map(({ filename }) => filename)];
    for (const file of named) {
      if (file === undefined || file === path || isAllowed(file)) continue;
      throw refuse(
        path,
        `names the file ${quote(file)}, which is outside the folders allowed here`,
      );
    }
    if (backing === undefined) return;
    const below = info["backing-filename-format"];
    if (below === undefined) throw refuse(path, "does not say which format its backing file has");
    [path, format] = [backing, below];
  }
  throw refuse(image.path, `has more than ${MAX_CHAIN} backing files`);
}

function refuse(path: string, what: string): AgentError {
  return new AgentError("image_names_other_file", `The image ${quote(path)} ${what}`, {
    kind: "refused",
    side: "destination",
    hint: "allow its folder with --allow-dir if that is meant",
  });
}
