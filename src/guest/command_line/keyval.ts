// The argument of a QEMU option as an ordered list of dotted keys and values, read from QEMU's
// key=value syntax or from its JSON form, and written back so that QEMU reads the same.
// Knows the syntax, not what any key means. Followed: QEMU's util/keyval.c and util/qemu-option.c.

/** A JSON value as QEMU's parser knows it; integers beyond 2^53 stay exact as bigint. */
export type Json = null | boolean | number | bigint | string | Json[] | { [key: string]: Json };

/** Deeper JSON than this comes from nobody's command line. */
const MAX_JSON_DEPTH = 64;

export interface Pair {
  /** Dotted: `file.filename`. */
  readonly key: string;
  /** As QEMU reads it: a bare `foo` is `on`, a bare `nofoo` is `foo=off`. */
  readonly value: string;
  /** How it was written: `key=value`, a bare flag, or the first value whose key is implied. */
  readonly form: "pair" | "bare" | "implied";
  /** The flag's own words (`nowait`), for writing it back. */
  readonly text?: string;
  /** The scalar or list of the JSON form. */
  readonly json?: Json;
  /** Set by the operator of this host: not to be checked as the peer's is. */
  readonly trusted?: boolean;
}

/** Thrown for text that QEMU would not take either; the caller knows which option it was. */
export class SyntaxFailure extends Error {}

export class KeyValues {
  #pairs: Pair[];
  readonly #isJson: boolean;

  constructor(pairs: Pair[] = [], isJson = false) {
    this.#pairs = pairs;
    this.#isJson = isJson;
  }

  /** Pairs from an object, in its order. */
  static of(values: Record<string, string>): KeyValues {
    return new KeyValues(
      Object.entries(values).map(([key, value]) => ({ key, value, form: "pair" })),
    );
  }

  /**
   * Reads `text`; `impliedKey` is the key that the first value may leave out.
   * @throws SyntaxFailure
   */
  static parse(text: string, impliedKey?: string): KeyValues {
    const pairs: Pair[] = [];
    let rest = text;
    while (rest !== "") {
      const keyLength = rest.search(/[=,]/);
      const isPair = keyLength >= 0 && rest[keyLength] === "=";
      if (isPair) {
        const { value, next } = takeValue(rest, keyLength + 1);
        pairs.push({ key: rest.slice(0, keyLength), value, form: "pair" });
        rest = next;
      } else if (pairs.length === 0 && impliedKey !== undefined) {
        const { value, next } = takeValue(rest, 0);
        pairs.push({ key: impliedKey, value, form: "implied" });
        rest = next;
      } else {
        const flag = keyLength < 0 ? rest : rest.slice(0, keyLength);
        pairs.push(
          flag.startsWith("no")
            ? { key: flag.slice(2), value: "off", form: "bare", text: flag }
            : { key: flag, value: "on", form: "bare", text: flag },
        );
        rest = keyLength < 0 ? "" : rest.slice(keyLength + 1);
      }
      if (pairs.at(-1)!.key === "") throw new SyntaxFailure("a key is empty");
    }
    return new KeyValues(pairs);
  }

  /**
   * Reads the JSON form (`{...}`): nested objects become dotted keys, lists stay whole.
   * @throws SyntaxFailure
   */
  static parseJson(text: string): KeyValues {
    const value = readJson(text);
    if (value === null || typeof value !== "object" || Array.isArray(value)) {
      throw new SyntaxFailure("not a JSON object");
    }
    const pairs: Pair[] = [];
    flatten(value, { prefix: "", depth: 0, pairs });
    return new KeyValues(pairs, true);
  }

  get pairs(): readonly Pair[] {
    return this.#pairs;
  }

  /** The last pair with this key: the one that counts. */
  find(key: string): Pair | undefined {
    return this.#pairs.findLast((pair) => pair.key === key);
  }

  get(key: string): string | undefined {
    return this.find(key)?.value;
  }

  /** Whether a flag is on; `fallback` when it is not there. */
  isOn(key: string, fallback = false): boolean {
    const value = this.get(key);
    return value === undefined ? fallback : ["on", "yes", "true", "y"].includes(value);
  }

  /** Sets `key` where it stands, else at the end; `options.json` is its value in the JSON form. */
  set(key: string, value: string, options: { trusted?: boolean; json?: Json } = {}): void {
    const at = this.#pairs.findLastIndex((pair) => pair.key === key);
    const isImplied = at >= 0 && this.#pairs[at]!.form === "implied" && !/[=,]/.test(value) &&
      value !== "";
    const json = options.json === undefined ? value : options.json;
    const pair: Pair = {
      key,
      value,
      form: isImplied ? "implied" : "pair",
      ...(this.#isJson ? { json } : {}),
      ...(options.trusted ? { trusted: true } : {}),
    };
    if (at < 0) this.#pairs.push(pair);
    else this.#pairs[at] = pair;
    this.#pairs = this.#pairs.filter((other) => other.key !== key || other === pair);
  }

  /** Sets a flag, in JSON as a boolean. */
  setFlag(key: string, on: boolean): void {
    this.set(key, on ? "on" : "off", { json: on });
  }

  delete(key: string): void {
    this.keep((pair) => pair.key !== key);
  }

  /** Keeps only the pairs that `wanted` says yes to. */
  keep(wanted: (pair: Pair) => boolean): void {
    this.#pairs = this.#pairs.filter(wanted);
  }

  /** The argument as QEMU takes it. */
  toString(): string {
    if (this.#isJson) return writeJson(unflatten(this.#pairs));
    return this.#pairs.map((pair, at) => {
      // In the first place a bare word could be taken for the value of the implied key.
      if (at > 0 && pair.form === "bare" && pair.text !== undefined) return pair.text;
      const value = pair.value.replaceAll(",", ",,");
      // Only the first value may leave its key out; one that moved up or got a '=' must name it.
      const canImply = at === 0 && pair.form === "implied" && !beginsLikePair(pair.value);
      return canImply ? value : `${pair.key}=${value}`;
    }).join(",");
  }
}

function beginsLikePair(value: string): boolean {
  const at = value.search(/[=,]/);
  return value === "" || (at >= 0 && value[at] === "=");
}

/** A value up to the next single comma, `,,` standing for one; and what follows that comma. */
function takeValue(text: string, start: number): { value: string; next: string } {
  let value = "";
  let at = start;
  for (;;) {
    const comma = text.indexOf(",", at);
    if (comma < 0) return { value: value + text.slice(at), next: "" };
    value += text.slice(at, comma);
    if (text[comma + 1] !== ",") return { value, next: text.slice(comma + 1) };
    value += ",";
    at = comma + 2;
  }
}

type Reviver = (key: string, value: Json, context: { source?: string }) => Json;
const parseWithSource = JSON.parse as (text: string, reviver: Reviver) => Json;

function readJson(text: string): Json {
  try {
    return parseWithSource(text, (key, value, context) => {
      // Escaped, it passes every check of the text, and no argument can hold it.
      if (key.includes("\0") || (typeof value === "string" && value.includes("\0"))) {
        throw new RangeError("a zero byte");
      }
      // 1e999: it could only be written back as something else.
      if (value === Infinity || value === -Infinity) throw new RangeError("too large a number");
      const isExact = typeof value !== "number" || Number.isSafeInteger(value) ||
        !/^-?\d+$/.test(context.source ?? "");
      return isExact ? value : BigInt(context.source!);
    });
  } catch (cause) {
    throw new SyntaxFailure("not valid JSON", { cause });
  }
}

function flatten(
  object: { [key: string]: Json },
  into: { prefix: string; depth: number; pairs: Pair[] },
): void {
  if (into.depth > MAX_JSON_DEPTH) throw new SyntaxFailure("JSON nested too deeply");
  for (const [key, json] of Object.entries(object)) {
    if (key === "" || key.includes(".")) throw new SyntaxFailure(`'${key}' is not a key`);
    const name = into.prefix + key;
    const isBranch = json !== null && typeof json === "object" && !Array.isArray(json) &&
      Object.keys(json).length > 0;
    if (isBranch) flatten(json, { ...into, prefix: `${name}.`, depth: into.depth + 1 });
    else {
      checkDepth(json, into.depth);
      into.pairs.push({ key: name, value: scalarText(json), form: "pair", json });
    }
  }
}

/** A list stays whole, and is written back by recursion. */
function checkDepth(json: Json, depth: number): void {
  if (depth > MAX_JSON_DEPTH) throw new SyntaxFailure("JSON nested too deeply");
  if (json === null || typeof json !== "object") return;
  for (const item of Object.values(json)) checkDepth(item, depth + 1);
}

function scalarText(json: Json): string {
  if (typeof json === "string") return json;
  if (typeof json === "boolean") return json ? "on" : "off";
  return json === null ? "" : writeJson(json);
}

type Tree = Map<string, Json | Tree>;

function unflatten(pairs: readonly Pair[]): Tree {
  const root: Tree = new Map();
  for (const { key, value, json } of pairs) {
    const names = key.split(".");
    const last = names.pop()!;
    let branch = root;
    for (const name of names) {
      let next = branch.get(name);
      if (!(next instanceof Map)) branch.set(name, next = new Map());
      branch = next;
    }
    branch.set(last, json === undefined ? value : json);
  }
  return root;
}

function writeJson(value: Json | Tree): string {
  if (typeof value === "bigint") return value.toString();
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(writeJson).join(",")}]`;
  const entries = value instanceof Map ? [...value] : Object.entries(value);
  return `{${entries.map(([key, item]) => `${JSON.stringify(key)}:${writeJson(item)}`).join(",")}}`;
}
