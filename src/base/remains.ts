// What a migration has made or changed on its host, as data: the durable form of an undo step, for
// whoever has to put things in order after the agent that did it is dead. Knows nothing of how.

import * as v from "valibot";
import { ProcessIdentitySchema } from "./process_identity.ts";

const path = v.pipe(v.string(), v.startsWith("/"), v.maxLength(4096));
const name = v.pipe(v.string(), v.minLength(1), v.maxLength(256));
const count = v.pipe(v.number(), v.integer(), v.minValue(0));

export const RemainSchema = v.variant("kind", [
  /** An image that was made here; to be removed only while it is still that file. */
  v.strictObject({ kind: v.literal("file"), path, dev: count, ino: count }),
  /** A folder that was made here, with all that is in it. */
  v.strictObject({ kind: v.literal("folder"), path }),
  /** A process that was started here, to be ended; `what` names it for people. */
  v.strictObject({ kind: v.literal("process"), what: name, process: ProcessIdentitySchema }),
  /** A QEMU that is being started in the background and will write its process id there. */
  v.strictObject({ kind: v.literal("pid_file"), path }),
  /** The guest's own QEMU on the source, with mirrors, nodes, keys and settings of a migration. */
  v.strictObject({
    kind: v.literal("source_qemu"),
    qmp: path,
    process: ProcessIdentitySchema,
    should_run: v.boolean(),
    /** What the migration's settings were before; null while they are untouched. */
    settings: v.nullable(v.strictObject({
      capabilities: v.pipe(
        v.array(v.strictObject({ capability: name, state: v.boolean() })),
        v.maxLength(256),
      ),
      parameters: v.record(name, v.number()),
    })),
  }),
  /** The Xen domain on the source, with mirrors and nodes in its device model. */
  v.strictObject({
    kind: v.literal("xen_source"),
    uuid: name,
    /** The domain's own name: xl gives it another one while it hands it over. */
    name,
    qmp: path,
    process: ProcessIdentitySchema,
    should_run: v.boolean(),
  }),
  /** The Xen domain that is being received here, under whatever name. */
  v.strictObject({ kind: v.literal("xen_domain"), uuid: name, name }),
]);

export type Remain = v.InferOutput<typeof RemainSchema>;
