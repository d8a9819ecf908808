// The params document: JSON of the peer through the check that the receiver makes.

import { parseParams } from "../../../src/guest/params.ts";
import { PARAMS } from "../corpus.ts";
import { type Json, mutateJson, mutateText } from "../mutate_json.ts";
import { holds, type Target } from "../target.ts";

const SEEDS = PARAMS as unknown as readonly Json[];
const TEXTS = PARAMS.map((params) => JSON.stringify(params));

export const PARAMS_TARGET: Target<string> = {
  name: "params",
  share: 60,
  make(random) {
    if (random.oneIn(5000)) return random.pick(["[", '{"a":', "[0,"]).repeat(100_000);
    if (random.oneIn(8)) return mutateText(random, random.pick(TEXTS));
    return JSON.stringify(mutateJson(random, random.pick(SEEDS), SEEDS));
  },
  run(text) {
    const before = JSON.stringify(parseParams(text));
    const after = JSON.stringify(parseParams(before));
    holds(before === after, () => `${before} became ${after}`);
  },
};
