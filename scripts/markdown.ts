// What the generated parts of docs/ are made with.

/** A table; cells are Markdown. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  return [head, head.map(() => "---"), ...rows].map((row) => `| ${row.join(" | ")} |`).join("\n");
}

export function code(text: string): string {
  return "`" + text + "`";
}

/**
 * `text` with each generated part made anew: what stands between `<!-- made: NAME -->` and
 * `<!-- end -->`. A part that `parts` does not have, or one that the text lacks, is an error.
 */
export function replaceParts(text: string, parts: Readonly<Record<string, string>>): string {
  const found = new Set<string>();
  const made = text.replace(
    /(<!-- made: (\w+) -->\n)[^]*?(<!-- end -->)/g,
    (_, begin: string, name: string, end: string) => {
      const part = parts[name];
      if (part === undefined) throw new Error(`No generated part is called '${name}'`);
      found.add(name);
      return `${begin}\n${part}\n\n${end}`;
    },
  );
  const missing = Object.keys(parts).filter((name) => !found.has(name));
  if (missing.length > 0) throw new Error(`Parts that the text has no place for: ${missing}`);
  return made;
}
