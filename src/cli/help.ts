// The text of `--help` and `--version`, made from the command table.

import { FAULT_POINTS } from "../migration/steps.ts";
import { FAULT_POINTS_TOPIC, SHOWN_COMMANDS } from "./command_table.ts";
import { EXIT_CODES } from "./exit_codes.ts";
import type { CommandSpec, OptionSpec } from "./option_spec.ts";

const WIDTH = 92;
const OPTION_COLUMN = 30;

const OVERVIEW_EXAMPLE = `  On the host where the guest shall go:
    migrate-agent receive --listen 10.0.0.2:4444 --disk-dir /var/lib/guests

  On the host where it runs:
    MIGRATE_AGENT_TICKET=... migrate-agent send -q --qmp /run/vm1/qmp.sock`;

export interface Versions {
  program: string;
  deno: string;
  protocol: number;
}

/** What `--version` prints. */
export function versionText(versions: Versions): string {
  return `migrate-agent ${versions.program}\nDeno ${versions.deno}\n` +
    `protocol ${versions.protocol}\n`;
}

/** Help for the command with that name, or for all when `topic` is null. */
export function helpText(topic: string | null): string {
  if (topic === FAULT_POINTS_TOPIC) return FAULT_POINTS.join("\n") + "\n";
  const spec = SHOWN_COMMANDS.find((command) => command.name === topic);
  return (spec ? commandHelp(spec) : overview()) + "\n";
}

function overview(): string {
  const width = Math.max(...SHOWN_COMMANDS.map((command) => command.name.length)) + 4;
  return [
    "migrate-agent moves a running QEMU or Xen guest, with its local disks, to another host.",
    "",
    "Move a guest:",
    "",
    OVERVIEW_EXAMPLE,
    "",
    "Commands:",
    "",
    ...SHOWN_COMMANDS.map((command) => `  ${command.name.padEnd(width)}${command.summary}`),
    "",
    "  migrate-agent help COMMAND     options and examples of one command",
    "  migrate-agent --version        version of the program, of Deno and of the protocol",
    "",
    "Sizes are bytes, or a number with K, M, G or T, which count in steps of 1024 (100M is 100 MiB).",
    "Durations are a number with its unit: 500ms, 30s, 10m, 2h.",
    ...wrap(
      "Exit codes: " + EXIT_CODES.map((row) => `${row.code} ${row.name}`).join(", ") + ".",
      0,
    ),
  ].join("\n");
}

function commandHelp(spec: CommandSpec<unknown>): string {
  const lines = [`Usage: migrate-agent ${usage(spec)}`, "", ...wrap(spec.about, 0), ""];
  for (const example of spec.examples) {
    lines.push(`  ${example.task}:`, ...wrapCommand(example.line), "");
  }
  const shown = spec.options.filter((option) => !option.hidden);
  for (const group of new Set(shown.map((option) => option.group))) {
    lines.push(`${group}:`);
    for (const option of shown) {
      if (option.group === group) lines.push(...optionHelp(option));
    }
    lines.push("");
  }
  return lines.join("\n").trimEnd();
}

function usage(spec: CommandSpec<unknown>): string {
  const required = spec.options.filter((option) => option.required);
  const parts = [spec.name, ...required.map((option) => `--${option.name} ${option.value}`)];
  if (required.length < spec.options.length) parts.push("[OPTIONS]");
  const word = spec.positional;
  if (word) {
    parts.push(word.required ? word.choices?.().join("|") ?? word.name : `[${word.name}]`);
  }
  return parts.join(" ");
}

function optionHelp(option: OptionSpec): string[] {
  const short = option.short ? `-${option.short}, ` : "";
  const value = option.value ? ` ${option.value}` : "";
  const head = `  ${short}--${option.name}${value}`;
  const more = option.required
    ? " Required."
    : option.default !== undefined
    ? ` Default: ${option.default}.`
    : "";
  const [first, ...others] = wrap(option.help + more, OPTION_COLUMN);
  if (head.length > OPTION_COLUMN - 2) return [head, first!, ...others];
  return [head.padEnd(OPTION_COLUMN) + first!.trimStart(), ...others];
}

/** Lines of at most `WIDTH` columns, `indent` of them blank. */
function wrap(text: string, indent: number): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    if (line !== "" && indent + line.length + 1 + word.length > WIDTH) {
      lines.push(" ".repeat(indent) + line);
      line = word;
    } else line = line === "" ? word : `${line} ${word}`;
  }
  return [...lines, " ".repeat(indent) + line];
}

/** A command line in pieces that a shell puts together again. */
function wrapCommand(line: string): string[] {
  const pieces = wrap(line, 6);
  return pieces.map((piece, at) =>
    (at === 0 ? "    " + piece.trimStart() : "  " + piece) + (at < pieces.length - 1 ? " \\" : "")
  );
}
