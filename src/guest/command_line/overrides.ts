// The receiver's operator's own values for parts of options (`netdev.net0.ifname=tap7`). They are put
// in before anything is checked and count as trusted, so that they also legitimise what would be
// refused from the peer.

import { AgentError, quote } from "../../base/errors.ts";
import type { Option } from "./options.ts";

const GROUPS: ReadonlyMap<string, readonly string[]> = new Map([
  ["chardev", ["chardev"]],
  ["device", ["device"]],
  ["netdev", ["netdev", "nic", "net"]],
  ["object", ["object"]],
]);

/**
 * Sets what `overrides` say in `options`; an empty value takes the key away.
 * @throws AgentError `override_unmatched` for one that fits no option
 */
export function applyOverrides(
  options: readonly Option[],
  overrides: ReadonlyMap<string, string>,
): void {
  for (const [name, value] of overrides) {
    const [group, rest] = split(name, ".");
    const names = GROUPS.get(group) ?? [];
    const found = options.flatMap((option) => {
      const id = names.includes(option.name) ? option.args?.get("id") : undefined;
      if (!id || !rest.startsWith(`${id}.`) || rest.length === id.length + 1) return [];
      return [{ args: option.args!, key: rest.slice(id.length + 1), id }];
    });
    // Ids may hold dots: the longest one that fits is meant.
    const best = found.sort((a, b) => b.id.length - a.id.length)[0];
    if (!best) {
      throw new AgentError("override_unmatched", `Override ${quote(name)} fits no option`, {
        kind: "refused",
        side: "destination",
        hint: "it is written GROUP.ID.KEY=VALUE, GROUP being chardev, device, netdev or object",
      });
    }
    if (value === "") best.args.delete(best.key);
    else best.args.set(best.key, value, { trusted: true });
  }
}

function split(text: string, separator: string): [string, string] {
  const at = text.indexOf(separator);
  return at < 0 ? [text, ""] : [text.slice(0, at), text.slice(at + 1)];
}
