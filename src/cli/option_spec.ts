// What a command and an option are, as data. Parsing, help, completions and suggestions are all
// driven by these rows; nothing here knows a particular command. Reading the values that were given
// is `Given`'s job: it hands them out by name, so that a misspelt name does not compile.

import { AgentError } from "../base/errors.ts";

/** One option of a command. Without `value` it is a flag. */
export interface OptionSpec<Name extends string = string> {
  /** Long name without the dashes. */
  readonly name: Name;
  /** One letter. */
  readonly short?: string;
  /** What its value is called in the help: `HOST:PORT`. */
  readonly value?: string;
  /** May be given more than once. */
  readonly repeatable?: true;
  readonly required?: true;
  /** For tests: neither in the help nor in the completions. */
  readonly hidden?: true;
  /** Heading in the help. */
  readonly group: string;
  readonly help: string;
  /** Shown in the help; the command's `read` is what applies it. */
  readonly default?: string;
  /** What a shell may complete; a list is also all that is accepted. */
  readonly completes?: "file" | "folder" | "command" | readonly string[];
  /** Names of options that make no sense together with this one. */
  readonly excludes?: readonly NoInfer<Name>[];
  /** Names of options without which this one has no effect. */
  readonly needs?: readonly NoInfer<Name>[];
}

/** The one word that may follow a command. */
export interface PositionalSpec {
  readonly name: string;
  readonly required: boolean;
  /** All that is accepted; without it the command's `read` checks the word. */
  choices?(): readonly string[];
  /** What a shell may complete where there is no such list. */
  readonly completes?: "migration";
}

/** What a parsed command line may depend on besides itself. */
export interface Surroundings {
  /** Relative paths are taken from here. */
  readonly cwd: string;
  readonly uid: number | null;
  /** $XDG_RUNTIME_DIR. */
  readonly runtimeDir: string | null;
  /** $XDG_STATE_HOME. */
  readonly stateHome: string | null;
  /** $HOME. */
  readonly home: string | null;
}

export interface CommandSpec<Parsed, Name extends string = string> {
  readonly name: string;
  /** Not for people: neither in the help nor in the completions. */
  readonly hidden?: true;
  /** Half a line, for the list of commands. */
  readonly summary: string;
  /** What it does and when one wants it: a few sentences. */
  readonly about: string;
  readonly examples: readonly { readonly task: string; readonly line: string }[];
  readonly positional?: PositionalSpec;
  readonly options: readonly OptionSpec<Name>[];
  /** The typed form of what was given; throws AgentError of kind "usage". */
  read(given: Given<Name>, around: Surroundings): Parsed;
}

/** Only there to infer the option names, so that `read` is checked against them. */
export function defineCommand<Parsed, const Name extends string>(
  spec: CommandSpec<Parsed, Name>,
): CommandSpec<Parsed, Name> {
  return spec;
}

/** Makes a value of the text given for `option` (`--to`); throws through `refuseValue`. */
export type Reader<T> = (text: string, option: string) => T;

/** "--to '10.0.0.2' has no port: give HOST:PORT" */
export function refuseValue(option: string, quoted: string, wrongAndRight: string): never {
  throw new AgentError("bad_value", `${option} ${quoted} ${wrongAndRight}`, { kind: "usage" });
}

/** A usage error that is not about one value. */
export function usageError(code: string, message: string, hint?: string): AgentError {
  return new AgentError(
    code,
    message,
    hint === undefined ? { kind: "usage" } : {
      kind: "usage",
      hint,
    },
  );
}

/** What was given on the command line for one command. */
export class Given<Name extends string> {
  readonly #values: ReadonlyMap<string, readonly string[]>;
  readonly #flags: ReadonlySet<string>;
  /** The word after the command, already checked against its choices if it has any. */
  readonly positional: string | null;

  constructor(
    values: ReadonlyMap<string, readonly string[]>,
    rest: { flags: ReadonlySet<string>; positional: string | null },
  ) {
    this.#values = values;
    this.#flags = rest.flags;
    this.positional = rest.positional;
  }

  /** Whether the flag or option was given at all. */
  has(name: Name): boolean {
    return this.#flags.has(name) || this.#values.has(name);
  }

  /** The value, or null when the option was not given. */
  one<T>(name: Name, reader: Reader<T>): T | null {
    const text = this.#values.get(name)?.[0];
    return text === undefined ? null : reader(text, "--" + name);
  }

  /** Every value of a repeatable option, in order. */
  all<T>(name: Name, reader: Reader<T>): T[] {
    return (this.#values.get(name) ?? []).map((text) => reader(text, "--" + name));
  }

  /** The value of an option that the table marks as required. */
  must<T>(name: Name, reader: Reader<T>): T {
    const value = this.one(name, reader);
    if (value === null) throw usageError("missing_option", `Option '--${name}' is missing`);
    return value;
  }
}
