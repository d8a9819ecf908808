// Makes an input that shows a defect smaller, as long as it goes on to show the same one.

import { runCase, type Target } from "./target.ts";

const MAX_TRIES = 3000;
const MAX_MS = 20_000;

/** What is wrong with `input`, or null when nothing is. Never throws. */
export async function findDefect(target: Target, input: unknown): Promise<Error | null> {
  try {
    await runCase(target, input);
    return null;
  } catch (error) {
    return error instanceof Error ? error : new Error(String(error));
  }
}

/** The smallest input found that fails with the same class of error; `onTry` before each try. */
export async function minimise(
  target: Target,
  input: unknown,
  { error, onTry }: { error: Error; onTry: () => void },
): Promise<unknown> {
  let smallest = input;
  let tries = 0;
  const end = performance.now() + MAX_MS;
  for (let progress = true; progress;) {
    progress = false;
    for (const smaller of shrink(smallest)) {
      if (++tries > MAX_TRIES || performance.now() > end) return smallest;
      onTry();
      const defect = await findDefect(target, smaller);
      if (defect?.name !== error.name) continue;
      smallest = smaller;
      progress = true;
      break;
    }
  }
  return smallest;
}

/** Smaller values of the same shape, the smallest first. */
function* shrink(value: unknown): Generator<unknown> {
  if (typeof value === "string") {
    for (const [from, to] of gaps(value.length)) yield value.slice(0, from) + value.slice(to);
  } else if (value instanceof Uint8Array) {
    for (const [from, to] of gaps(value.length)) {
      yield Uint8Array.of(...value.subarray(0, from), ...value.subarray(to));
    }
  } else if (Array.isArray(value)) {
    for (const [from, to] of gaps(value.length)) yield value.toSpliced(from, to - from);
    for (const [at, item] of value.entries()) {
      for (const smaller of shrink(item)) yield value.with(at, smaller);
    }
  } else if (value !== null && typeof value === "object") {
    for (const [key, item] of Object.entries(value)) {
      for (const smaller of shrink(item)) yield { ...value, [key]: smaller };
    }
  }
}

/** Parts of a row to leave out: halves, quarters, and so on down to single ones. */
function* gaps(length: number): Generator<[number, number]> {
  for (let size = length; size >= 1; size = Math.floor(size / 2)) {
    for (let from = 0; from < length; from += size) yield [from, Math.min(from + size, length)];
  }
}

/** `value` as TypeScript source. */
export function showInput(value: unknown): string {
  if (value instanceof Uint8Array) return `Uint8Array.fromHex("${value.toHex()}")`;
  return JSON.stringify(value);
}
