// From the words of a command line to a typed command, or to one usage error. The table says what
// there is; @std/cli does the splitting; what it lets pass in silence (repeated options, flags with
// values, empty values) is refused here.

import { parseArgs } from "@std/cli/parse-args";
import { type AgentError, quote } from "../base/errors.ts";
import { type Command, COMMANDS, SHOWN_COMMANDS } from "./command_table.ts";
import { nearest } from "./nearest.ts";
import {
  type CommandSpec,
  Given,
  type OptionSpec,
  type Surroundings,
  usageError,
} from "./option_spec.ts";

const HELP_WORDS = ["--help", "-h"];
const VERSION_WORDS = ["--version", "-V"];

/** The surroundings of this process. */
export function readSurroundings(): Surroundings {
  return {
    cwd: Deno.cwd(),
    uid: Deno.uid(),
    runtimeDir: Deno.env.get("XDG_RUNTIME_DIR") || null,
    stateHome: Deno.env.get("XDG_STATE_HOME") || null,
    home: Deno.env.get("HOME") || null,
  };
}

/** What `args` (without the program's name) ask for. Throws AgentError of kind "usage". */
export function parseCommandLine(args: readonly string[], around: Surroundings): Command {
  const [first, ...rest] = args;
  const names = SHOWN_COMMANDS.map((command) => command.name);
  if (first === undefined) {
    throw usageError("missing_command", `No command given: give one of ${names.join(", ")}`, HINT);
  }
  if (HELP_WORDS.includes(first)) return { command: "help", topic: null };
  if (VERSION_WORDS.includes(first)) return { command: "version" };
  const spec = COMMANDS.find((command) => command.name === first);
  if (spec) return readCommand(spec, rest, around);
  if (first.startsWith("-")) {
    throw usageError(
      "missing_command",
      `Option ${quote(first)} comes before the command: begin with one of ${names.join(", ")}`,
      HINT,
    );
  }
  const meant = nearest(first, names);
  const right = meant ? `did you mean ${quote(meant)}?` : `there are ${names.join(", ")}`;
  throw usageError("unknown_command", `Unknown command ${quote(first)}: ${right}`, HINT);
}

/**
 * Whether a failed command line asked for JSON, so that its error can be told in JSON as well. For
 * use after `parseCommandLine` threw only.
 */
export function wantsJson(args: readonly string[]): boolean {
  return args.includes("--json");
}

const HINT = "'migrate-agent --help' shows the commands";

/** `--ticket-file -` as `--ticket-file=-`: a lone dash is a value, which parseArgs does not know. */
function joinDashes(args: readonly string[]): string[] {
  return args.flatMap((arg, at) => {
    if (arg === "-" && args[at - 1]?.startsWith("--")) return [];
    return args[at + 1] === "-" && arg.startsWith("--") ? [`${arg}=-`] : [arg];
  });
}

function readCommand(
  spec: CommandSpec<Command>,
  args: readonly string[],
  around: Surroundings,
): Command {
  if (args.some((arg) => HELP_WORDS.includes(arg))) return { command: "help", topic: spec.name };
  const flags = spec.options.filter((option) => option.value === undefined);
  const valued = spec.options.filter((option) => option.value !== undefined);
  refuseFlagValues(flags, args);
  const parsed = parseArgs(joinDashes(args), {
    boolean: flags.map((option) => option.name),
    string: ["_", ...valued.map((option) => option.name)],
    collect: valued.map((option) => option.name),
    alias: Object.fromEntries(
      spec.options.flatMap((option) => option.short ? [[option.name, option.short]] : []),
    ),
    unknown(arg, key) {
      if (key !== undefined) throw unknownOption(spec, arg);
      return true;
    },
  });
  const values = new Map<string, readonly string[]>();
  for (const option of valued) {
    const texts = parsed[option.name];
    if (!Array.isArray(texts) || texts.length === 0) continue;
    values.set(option.name, checkTexts(option, texts.map(String)));
  }
  const given = new Set(flags.filter((o) => parsed[o.name] === true).map((o) => o.name));
  const positional = checkPositional(spec, parsed._.map(String));
  checkTogether(spec, new Set([...given, ...values.keys()]));
  return spec.read(new Given(values, { flags: given, positional }), around);
}

/** `--json=no` and `--json false` would otherwise be read as "yes" or swallow a word. */
function refuseFlagValues(flags: readonly OptionSpec[], args: readonly string[]): void {
  for (const flag of flags) {
    const forms = ["--" + flag.name, ...(flag.short ? ["-" + flag.short] : [])];
    args.forEach((arg, at) => {
      const next = args[at + 1];
      const form = forms.find((form) => arg === form || arg.startsWith(form + "="));
      if (form === undefined) return;
      const value = arg !== form
        ? arg.slice(form.length + 1)
        : next === "true" || next === "false"
        ? next
        : null;
      if (value === null) return;
      throw usageError(
        "unexpected_value",
        `Option '${form}' takes no value, but ${quote(value)} was given: leave the value out`,
      );
    });
  }
}

function checkTexts(option: OptionSpec, texts: readonly string[]): readonly string[] {
  if (texts.includes("")) {
    throw usageError(
      "missing_value",
      `Option '--${option.name}' needs a value: give --${option.name} ${option.value}` +
        ` (as --${option.name}=${option.value} when it begins with '-')`,
    );
  }
  if (texts.length > 1 && !option.repeatable) {
    throw usageError(
      "repeated_option",
      `Option '--${option.name}' is given ${texts.length} times (${
        texts.map((text) => quote(text)).join(", ")
      }): give it once`,
    );
  }
  return texts;
}

function checkPositional(spec: CommandSpec<Command>, words: readonly string[]): string | null {
  const wanted = spec.positional;
  const extra = wanted ? words[1] : words[0];
  if (extra !== undefined) {
    throw usageError(
      "unexpected_argument",
      `Unexpected argument ${quote(extra)} for ${spec.name}: ` +
        (wanted ? `it takes one ${wanted.name}` : "it takes options alone, which begin with '--'"),
    );
  }
  const [word] = words;
  if (!wanted) return null;
  const choices = wanted.choices?.();
  if (word === undefined) {
    if (!wanted.required) return null;
    throw usageError(
      "missing_argument",
      `No ${wanted.name} given for ${spec.name}: give ${choices?.join(" or ") ?? "one"}`,
    );
  }
  if (!choices || choices.includes(word)) return word;
  const meant = nearest(word, choices);
  throw usageError(
    "unknown_argument",
    `Unknown ${wanted.name} ${quote(word)} for ${spec.name}: ` +
      (meant ? `did you mean ${quote(meant)}?` : `give one of ${choices.join(", ")}`),
  );
}

/** What the table says about options that need, or do not bear, one another. */
function checkTogether(spec: CommandSpec<Command>, given: ReadonlySet<string>): void {
  for (const option of spec.options) {
    if (option.required && !given.has(option.name)) {
      throw usageError(
        "missing_option",
        `Option '--${option.name}' is missing for ${spec.name}: give --${option.name} ${option.value}`,
        `'migrate-agent help ${spec.name}' shows examples`,
      );
    }
    if (!given.has(option.name)) continue;
    const clash = option.excludes?.find((name) => given.has(name));
    if (clash !== undefined) {
      throw usageError(
        "conflicting_options",
        `Options '--${option.name}' and '--${clash}' exclude each other: give one of them`,
      );
    }
    const lacking = option.needs?.find((name) => !given.has(name));
    if (lacking !== undefined) {
      throw usageError(
        "missing_option",
        `Option '--${option.name}' has no effect without '--${lacking}': give both or neither`,
      );
    }
  }
}

function unknownOption(spec: CommandSpec<Command>, arg: string): AgentError {
  const shown = arg.split("=", 1)[0]!;
  const word = shown.replace(/^-+/, "");
  const elsewhere = COMMANDS.filter((command) =>
    command.name !== spec.name && command.options.some((option) => option.name === word)
  );
  const meant = nearest(word, [...spec.options.map((option) => option.name), "help"]);
  let right = "";
  // A word that this command knows was only written with the wrong dashes.
  if (elsewhere.length > 0 && meant !== word) {
    right = `: it belongs to ${elsewhere.map((command) => command.name).join(" and ")}`;
  } else if (meant) {
    right = `: did you mean '--${meant}'?`;
  }
  return usageError(
    "unknown_option",
    `Unknown option ${quote(shown)} for ${spec.name}${right}`,
    `'migrate-agent help ${spec.name}' shows its options`,
  );
}
