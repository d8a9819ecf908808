// QEMU's own reading of its arguments, written a second time from its sources (util/qemu-option.c,
// qobject/json-parser.c) for checks: nothing of src is used, so a mistake there is not repeated here.

export interface QemuPair {
  key: string;
  value: string;
}

/** The pairs of a key=value argument; a first value without a key gets `impliedKey`. */
export function readPairs(text: string, impliedKey?: string): QemuPair[] {
  const pairs: QemuPair[] = [];
  let at = 0;
  while (at < text.length) {
    let end = at;
    while (end < text.length && text[end] !== "=" && text[end] !== ",") end++;
    const hasKey = text[end] === "=";
    const isFirst = pairs.length === 0;
    if (!hasKey && !(isFirst && impliedKey !== undefined)) {
      const flag = text.slice(at, end);
      const off = flag.startsWith("no");
      pairs.push({ key: off ? flag.slice(2) : flag, value: off ? "off" : "on" });
      at = end + 1;
      continue;
    }
    const key = hasKey ? text.slice(at, end) : impliedKey!;
    let value = "";
    for (at = hasKey ? end + 1 : at; at < text.length; at++) {
      if (text[at] === ",") {
        if (text[at + 1] !== ",") break;
        at++;
      }
      value += text[at];
    }
    at++;
    pairs.push({ key, value });
  }
  return pairs;
}

/** The leaves of a JSON argument under dotted keys; of lists, every item under the list's key. */
export function readLeaves(text: string): QemuPair[] {
  const pairs: QemuPair[] = [];
  const walk = (value: unknown, key: string): void => {
    if (Array.isArray(value)) { for (const item of value) walk(item, key); }
    else if (value !== null && typeof value === "object") {
      for (const [name, item] of Object.entries(value)) {
        walk(item, key === "" ? name : `${key}.${name}`);
      }
    } else if (typeof value === "boolean") pairs.push({ key, value: value ? "on" : "off" });
    else pairs.push({ key, value: String(value) });
  };
  walk(JSON.parse(text), "");
  return pairs;
}
