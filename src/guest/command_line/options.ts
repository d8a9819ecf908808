// QEMU's arguments as a list of options, and refusals that quote one. Knows which options take a
// value (option_table.ts), not what they mean. Followed: `qemu_init` in QEMU's system/vl.c.

import { AgentError, quote } from "../../base/errors.ts";
import { KeyValues, SyntaxFailure } from "./keyval.ts";
import { OPTION_TABLE } from "./option_table.ts";

export interface Option {
  /** Without dashes; the disk image that stands alone on the command line is `hda`. */
  readonly name: string;
  /** Null for an option that takes none. */
  readonly value: string | null;
  /** The argument in parts, for options whose argument has them. */
  readonly args: KeyValues | null;
}

/** Options with a key=value argument, and the key that their first value may leave out. */
const IMPLIED_KEYS: ReadonlyMap<string, string | undefined> = new Map([
  ["machine", "type"],
  ["M", "type"],
  ["accel", "accel"],
  ["boot", "order"],
  ["icount", "shift"],
  ["smbios", undefined],
  ["acpitable", undefined],
  ["fw_cfg", "name"],
  ["device", "driver"],
  ["object", "qom-type"],
  ["tpmdev", "type"],
  ["drive", undefined],
  ["blockdev", "driver"],
  ["chardev", "backend"],
  ["netdev", "type"],
  ["nic", "type"],
  ["net", "type"],
  ["mon", "chardev"],
  ["vnc", "vnc"],
  ["audiodev", "driver"],
  ["audio", "driver"],
  ["sandbox", "enable"],
  ["run-with", undefined],
]);
/** Of these, the ones that QEMU also takes as JSON. */
const JSON_OPTIONS = new Set(["blockdev", "device", "object", "netdev", "audiodev"]);
/** What must not be repeated in a message or a log. */
const SECRETS = /\b(data|password|secret)=(?:[^,]|,,)*/g;

/**
 * Splits arguments (without argv[0]) into options.
 * @throws AgentError `option_refused` for an option that is not known
 */
export function parseOptions(argv: readonly string[]): Option[] {
  const options: Option[] = [];
  for (let at = 0; at < argv.length; at++) {
    const word = argv[at]!;
    if (word.includes("\0")) refuseText(word, "holds a zero byte");
    if (!word.startsWith("-")) {
      if (word === "") refuseText(word, "is empty");
      options.push({ name: "hda", value: word, args: null });
      continue;
    }
    const name = word.replace(/^--?/, "");
    const row = OPTION_TABLE.get(name);
    if (!row) refuseText(word, "is not one that is known here");
    if (!row.takesValue) {
      options.push({ name, value: null, args: null });
      continue;
    }
    const value = argv[++at];
    if (value === undefined) refuseText(word, "lacks its value");
    if (value.includes("\0")) refuseText(word, "holds a zero byte");
    options.push(makeOption(name, value));
  }
  return options;
}

/** An option from its text. */
export function makeOption(name: string, value: string | null): Option {
  const option = { name, value, args: null };
  if (value === null || !IMPLIED_KEYS.has(name)) return option;
  const args = readArgs(option, { text: value, impliedKey: IMPLIED_KEYS.get(name) });
  // QEMU takes the first id in some options and the last in others: nobody means two.
  if (args.pairs.filter(({ key }) => key === "id").length > 1) refuse(option, "has two ids");
  return { ...option, args };
}

/** The parts of `text`, a piece of `option`. */
export function readArgs(
  option: Option,
  { text, impliedKey }: { text: string; impliedKey: string | undefined },
): KeyValues {
  try {
    return JSON_OPTIONS.has(option.name) && text.startsWith("{")
      ? KeyValues.parseJson(text)
      : KeyValues.parse(text, impliedKey);
  } catch (error) {
    if (!(error instanceof SyntaxFailure)) throw error;
    refuse(option, `cannot be read: ${error.message}`);
  }
}

/** An option from its parts. */
export function fromArgs(name: string, args: KeyValues): Option {
  return { name, value: args.toString(), args };
}

/** The arguments that say these options. */
export function toArgv(options: readonly Option[]): string[] {
  return options.flatMap(({ name, value, args }) =>
    value === null ? [`-${name}`] : [`-${name}`, args?.toString() ?? value]
  );
}

/**
 * @param why continues the sentence "Cannot start the guest here: option '-x y' ..."
 * @throws AgentError `option_refused`, always
 */
export function refuse(option: Option, why: string, hint?: string): never {
  const value = option.args?.toString() ?? option.value;
  refuseText(value === null ? `-${option.name}` : `-${option.name} ${value}`, why, hint);
}

function refuseText(text: string, why: string, hint?: string): never {
  throw new AgentError(
    "option_refused",
    `Cannot start the guest here: option ${
      quote(text.replace(SECRETS, "$1=…").replace(/"(data|password)":"[^"]*"/g, '"$1":"…"'))
    } ${why}`,
    {
      kind: "refused",
      side: "destination",
      hint: hint === undefined
        ? "start the destination's QEMU yourself (receive --adopt-qmp or --launch-command)"
        : quote(hint, 1000).slice(1, -1), // it may name what the peer wrote
    },
  );
}
