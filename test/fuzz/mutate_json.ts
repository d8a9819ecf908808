// Mutations of JSON values: nodes swapped, dropped, doubled; hostile numbers, texts, keys and depths.

import type { Random } from "./random.ts";

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

const NUMBERS = [0, -0, 1, -1, 0.5, 1e308, -1e308, 5e-324, 2 ** 31, 2 ** 32, 2 ** 53, 2 ** 53 + 2];
const TEXTS = [
  ...["", " ", "\0", "\n", "\x1b[2J", "\u202e", "\ud800", "\udc00x", "\ud83d\ude00", "\u2028"],
  ...["/", "//", "..", "../..", "/etc/shadow", "/dst/../etc/shadow", ",", ",,", "=", "a,b=c", "{}"],
  ...["null", "on", "off", "-", "--", "-1", "1e999", "__proto__", "constructor", "raw", "qcow2"],
  ...[
    "mirror",
    "present",
    "shared",
    "empty",
    "nbd",
    "json:{}",
    "nbd://h/x",
    "fat:rw:/",
    "é".repeat(40),
  ],
];
const KEYS = ["__proto__", "constructor", "toString", "length", "", "a.b", "id", "body", "name"];
const DEPTHS = [15, 16, 17, 40, 70, 200, 1500];

/** A copy of `value` that differs in a few places; `donors` lend parts of themselves. */
export function mutateJson(random: Random, value: Json, donors: readonly Json[]): Json {
  let result = value;
  for (let i = random.few(4); i > 0; i--) result = mutateSomewhere(random, result, donors);
  return result;
}

/** Walks down to a place and changes it, copying what is on the way. */
function mutateSomewhere(random: Random, value: Json, donors: readonly Json[]): Json {
  if (value === null || typeof value !== "object" || random.oneIn(6)) {
    return replaceNode(random, value, donors);
  }
  if (Array.isArray(value)) {
    if (value.length === 0) return [replaceNode(random, null, donors)];
    const at = random.below(value.length);
    const copy = value.slice();
    switch (random.below(8)) {
      case 0:
        copy.splice(at, 1);
        break;
      case 1:
        copy.splice(at, 0, random.pick(value));
        break;
      case 2:
        copy[at] = random.pick(value);
        break;
      default:
        copy[at] = mutateSomewhere(random, copy[at]!, donors);
    }
    return copy;
  }
  const entries = Object.entries(value);
  if (entries.length === 0) return withEntries([[random.pick(KEYS), random.pick(TEXTS)]]);
  const at = random.below(entries.length);
  const [key, item] = entries[at]!;
  switch (random.below(10)) {
    case 0:
      entries.splice(at, 1);
      break;
    case 1:
      entries.push([random.pick(KEYS), item]);
      break;
    case 2:
      entries[at] = [key, random.pick(entries)[1]];
      break;
    default:
      entries[at] = [key, mutateSomewhere(random, item, donors)];
  }
  return withEntries(entries);
}

function replaceNode(random: Random, value: Json, donors: readonly Json[]): Json {
  switch (random.below(9)) {
    case 0:
      return random.pick(NUMBERS);
    case 1:
      return random.bits() * (random.oneIn(2) ? 1 : 2 ** 20);
    case 2:
      return random.pick(TEXTS);
    case 3:
      return random.pick([null, true, false, [], {}]);
    case 4:
      return pickNode(random, random.pick(donors));
    case 5:
      return random.oneIn(50) ? nest(value, random.pick(DEPTHS)) : [value];
    case 6:
      return random.oneIn(50) ? random.pick(TEXTS).repeat(2000) : random.pick(TEXTS);
    case 7:
      return typeof value === "number" ? value + random.below(5) - 2 : JSON.stringify(value);
    default:
      return typeof value === "string" ? mutateText(random, value) : random.pick(TEXTS);
  }
}

export function mutateText(random: Random, text: string): string {
  const at = random.below(text.length + 1);
  const end = at + random.few(8);
  switch (random.below(5)) {
    case 0:
      return text.slice(0, at) + text.slice(end);
    case 1:
      return text.slice(0, at) + random.pick(TEXTS) + text.slice(at);
    case 2:
      return text.slice(0, at) + String.fromCharCode(random.bits() & 0xffff) + text.slice(at + 1);
    case 3:
      return text.slice(0, at) + text.slice(at, end) + text.slice(at);
    default:
      return text.slice(0, at) + random.pick(TEXTS) + text.slice(end);
  }
}

/** Some node of `value`. */
function pickNode(random: Random, value: Json): Json {
  let node = value;
  while (node !== null && typeof node === "object" && !random.oneIn(4)) {
    const items: Json[] = Array.isArray(node) ? node : Object.values(node);
    if (items.length === 0) break;
    node = random.pick(items);
  }
  return node;
}

function nest(value: Json, depth: number): Json {
  let nested = value;
  for (let i = 0; i < depth; i++) nested = i % 2 === 0 ? [nested] : { a: nested };
  return nested;
}

/** As a literal would: also `__proto__` becomes a key like any other. */
function withEntries(entries: [string, Json][]): { [key: string]: Json } {
  return Object.fromEntries(entries);
}
