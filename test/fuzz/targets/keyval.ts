// The arguments of QEMU's options: what is written back must be read by QEMU as it was read here.

import { AgentError } from "../../../src/base/errors.ts";
import {
  type Json as Value,
  KeyValues,
  SyntaxFailure,
} from "../../../src/guest/command_line/keyval.ts";
import { PARAMS } from "../corpus.ts";
import { type Json, mutateJson, mutateText } from "../mutate_json.ts";
import { readLeaves, readPairs } from "../qemu_syntax.ts";
import type { Random } from "../random.ts";
import { holds, type Target } from "../target.ts";

const VALUES = PARAMS.flatMap(({ qemu }) => qemu.argv).filter((word) => /[=,{]/.test(word));
const PAIRS = VALUES.filter((word) => !word.startsWith("{"));
const JSONS = VALUES.filter((word) => word.startsWith("{"));
const TREES = JSONS.map((text) => JSON.parse(text) as Json);
const PIECES = [
  ",",
  ",,",
  "=",
  "no",
  "nowait",
  "server",
  "id=x",
  "driver",
  "file.",
  "{",
  "é",
  "\ud800",
];
const IMPLIED = "driver";

/** A text and whether its first value may leave out its key, as `!` or `=` before it. */
export const KEYVAL_TARGET: Target<string> = {
  name: "keyval",
  share: 150,
  make(random) {
    if (random.oneIn(4)) return "=" + makeJson(random);
    return random.pick("!=") + mutateArgument(random, random.pick(PAIRS));
  },
  run(input) {
    const impliedKey = input[0] === "!" ? IMPLIED : undefined;
    const text = input.slice(1);
    try {
      if (text.startsWith("{")) checkJson(text);
      else checkPairs(text, impliedKey);
    } catch (error) {
      // What the caller, who knows which option it is, makes of it.
      if (error instanceof SyntaxFailure) throw new AgentError("option_refused", "no syntax");
      throw error;
    }
  },
};

function checkPairs(text: string, impliedKey: string | undefined): void {
  const read = KeyValues.parse(text, impliedKey);
  const written = read.toString();
  const expected = listPairs(read);
  const here = listPairs(KeyValues.parse(written, impliedKey));
  holds(here === expected, () => `${expected} became ${here}`);
  const qemu = JSON.stringify(readPairs(written, impliedKey));
  holds(qemu === expected, () => `QEMU reads ${qemu} where ${expected} is meant`);
}

function listPairs(args: KeyValues): string {
  return JSON.stringify(args.pairs.map(({ key, value }) => ({ key, value })));
}

function checkJson(text: string): void {
  const read = KeyValues.parseJson(text);
  const written = read.toString();
  const again = KeyValues.parseJson(written);
  const [before, after] = [read, again].map((args) => args.pairs.map(describe).join());
  holds(before === after, () => `${before} became ${after}`);
  const leaves = (source: string) =>
    readLeaves(source).map(({ key, value }) => `${key}=${value}`).sort().join();
  holds(leaves(written) === leaves(text), () => `${text} became ${written}`);
}

function describe(pair: { key: string; value: string; json?: Value }): string {
  return `${pair.key}=${pair.value} (${typeof pair.json})`;
}

export function mutateArgument(random: Random, text: string): string {
  let result = text;
  for (let i = random.few(4); i > 0; i--) {
    const parts = result.split(",");
    const at = random.below(parts.length);
    switch (random.below(6)) {
      case 0:
        parts.splice(at, 1);
        break;
      case 1:
        parts.splice(at, 0, random.pick(random.pick(PAIRS).split(",")));
        break;
      case 2:
        parts[at] = parts[at]!.replace(/=.*/, "=" + random.pick(random.pick(PAIRS).split("=")));
        break;
      case 3:
        parts.splice(at, 0, random.pick(PIECES));
        break;
      case 4:
        return mutateText(random, result);
      default:
        parts[at] = mutateText(random, parts[at]!);
    }
    result = parts.join(",");
  }
  return result;
}

export function makeJson(random: Random): string {
  if (random.oneIn(1000)) {
    return '{"a":'.repeat(random.below(9000)) + "[".repeat(random.below(9000));
  }
  if (random.oneIn(1000)) {
    const depth = random.below(9000);
    return `{"a":${"[".repeat(depth)}${"]".repeat(depth)}}`;
  }
  if (random.oneIn(6)) return mutateText(random, random.pick(JSONS));
  return JSON.stringify(mutateJson(random, random.pick(TREES), TREES));
}
