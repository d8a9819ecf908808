// Completion scripts for bash and zsh, made from the command table. Both are plain data in the
// shells' own form: nothing of this program runs while somebody presses the tab key.

import { type Shell, SHOWN_COMMANDS } from "./command_table.ts";
import type { CommandSpec, OptionSpec, PositionalSpec } from "./option_spec.ts";

const PROGRAM = "migrate-agent";

/**
 * For both shells: the ids of the migrations with a journal (ID.SIDE.json) in the default folder; what
 * `--state-dir` may name is not looked at.
 */
const LIST_MIGRATIONS = `_migrate_agent_ids() {
  local folder=/var/lib/migrate-agent
  [ "$EUID" -eq 0 ] || folder="\${XDG_STATE_HOME:-$HOME/.local/state}/migrate-agent"
  ls "$folder" 2>/dev/null | sed -n 's/\\.\\(source\\|destination\\)\\.json$//p' | sort -u
}`;

/** The script for that shell. */
export function completionScript(shell: Shell): string {
  return shell === "bash" ? bashScript() : zshScript();
}

function bashScript(): string {
  const first = [...SHOWN_COMMANDS.map((command) => command.name), "--help", "--version"].join(" ");
  // COMP_WORDBREAKS holds '=', so `--opt=val` arrives as three words. Names come line by line, since
  // those of files may have blanks in them.
  return `# bash completion for ${PROGRAM}
${LIST_MIGRATIONS}
_migrate_agent() {
  local cur="\${COMP_WORDS[COMP_CWORD]}" at=$((COMP_CWORD - 1)) opts="" words=""
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    mapfile -t COMPREPLY < <(compgen -W "${first}" -- "$cur")
    return
  fi
  if [ "$cur" = "=" ]; then
    cur=""
  elif [ "\${COMP_WORDS[at]}" = "=" ]; then
    at=$((at - 1))
  fi
  local option="\${COMP_WORDS[at]}"
  case "\${COMP_WORDS[1]}" in
${SHOWN_COMMANDS.map(bashCommand).join("\n")}
  esac
  case "$cur" in
    -*) words="$opts" ;;
    *) words="\${words:-$opts}" ;;
  esac
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}
complete -F _migrate_agent ${PROGRAM}
`;
}

function bashCommand(command: CommandSpec<unknown>): string {
  const valued = command.options.filter((o) => o.value !== undefined && !o.hidden);
  const byReply = Map.groupBy(valued, bashReply);
  const lines = [
    `opts="${optionWords(command).join(" ")}"`,
    ...(command.positional ? [`words="${bashWords(command.positional)}"`] : []),
    ...(valued.length > 0 ? ['case "$option" in'] : []),
    ...[...byReply].map(([reply, options]) =>
      `  ${options.map((option) => "--" + option.name).join("|")}) ${reply}return ;;`
    ),
    ...(valued.length > 0 ? ["esac"] : []),
    ";;",
  ];
  return `    ${command.name})\n${lines.map((line) => "      " + line).join("\n")}`;
}

function bashWords({ choices, completes }: PositionalSpec): string {
  return choices?.().join(" ") ?? (completes === "migration" ? "$(_migrate_agent_ids)" : "");
}

/** What fills COMPREPLY. A value that cannot be guessed gets nothing, rather than a list of options. */
function bashReply({ completes }: OptionSpec): string {
  if (completes === undefined) return "";
  const named = typeof completes === "string";
  const action = named ? BASH_ACTIONS[completes] : `-W "${completes.join(" ")}"`;
  return `mapfile -t COMPREPLY < <(compgen ${action} -- "$cur"); ` +
    (named ? "compopt -o filenames 2>/dev/null; " : "");
}

const BASH_ACTIONS = { file: "-f", folder: "-d", command: "-c" };

function zshScript(): string {
  const cases = SHOWN_COMMANDS.map((command) => {
    const specs = [
      ...command.options.filter((o) => !o.hidden).map(zshOption),
      `'(-h --help)'{-h,--help}'[show help]'`,
      ...(command.positional ? [zshPositional(command.positional)] : []),
    ];
    return `    ${command.name})\n      _arguments -s \\\n        ${
      specs.join(" \\\n        ")
    }\n      ;;`;
  });
  return `#compdef ${PROGRAM}
${LIST_MIGRATIONS}
_migrate_agent() {
  local -a commands
  commands=(
${SHOWN_COMMANDS.map((c) => `    ${zshQuote(`${c.name}:${c.summary}`)}`).join("\n")}
  )
  if (( CURRENT == 2 )); then
    _describe -t commands command commands
    _arguments '(- *)'{-h,--help}'[show help]' '(- *)'{-V,--version}'[show versions]'
    return
  fi
  local command="$words[2]"
  shift words
  (( CURRENT-- ))
  case "$command" in
${cases.join("\n")}
  esac
}
if [ "$funcstack[1]" = "_migrate-agent" ]; then
  _migrate_agent "$@"
else
  compdef _migrate_agent ${PROGRAM}
fi
`;
}

function zshPositional({ name, choices, completes }: PositionalSpec): string {
  const action = choices
    ? `(${choices().join(" ")})`
    : completes === "migration"
    ? "{compadd -- $(_migrate_agent_ids)}"
    : " ";
  return `'1:${name}:${action}'`;
}

function zshOption(option: OptionSpec): string {
  const help = `[${option.help.replace(/[[\]\\]/g, "\\$&")}]`;
  const action = option.value === undefined
    ? ""
    : `:${zshEscape(option.value)}:${zshAction(option)}`;
  const long = `--${option.name}${option.value === undefined ? "" : "="}`;
  if (option.repeatable) return zshQuote(`*${long}${help}${action}`);
  if (!option.short) return zshQuote(`${long}${help}${action}`);
  const both = `-${option.short} --${option.name}`;
  return `'(${both})'{-${option.short},${long}}${zshQuote(help + action)}`;
}

function zshAction(option: OptionSpec): string {
  if (option.completes === undefined) return " ";
  if (typeof option.completes !== "string") return `(${option.completes.join(" ")})`;
  return { file: "_files", folder: "_files -/", command: "_command_names" }[option.completes];
}

function zshEscape(text: string): string {
  return text.replaceAll(":", "\\:");
}

function zshQuote(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function optionWords(command: CommandSpec<unknown>): string[] {
  return [
    ...command.options.filter((o) => !o.hidden).flatMap((
      o,
    ) => [...(o.short ? ["-" + o.short] : []), "--" + o.name]),
    "--help",
  ];
}
