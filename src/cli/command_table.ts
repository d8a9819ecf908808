// Every command, in one table: a new one is a new row here (and its type in `Command`). Parsing,
// help and completions go through `COMMANDS` and know no command by name.

import type { ReceiveOptions } from "./receive_command.ts";
import { RECEIVE_COMMAND } from "./receive_command.ts";
import type { SendOptions } from "./send_command.ts";
import { SEND_COMMAND } from "./send_command.ts";
import { type CommandSpec, defineCommand } from "./option_spec.ts";
import {
  CANCEL_COMMAND,
  type CancelOptions,
  SET_COMMAND,
  type SetOptions,
} from "./adjust_commands.ts";
import { RESOLVE_COMMAND, type ResolveOptions } from "./resolve_command.ts";
import { STATUS_COMMAND, type StatusOptions } from "./status_command.ts";
import { readSocketPath } from "./values.ts";

export interface DemoOptions {
  command: "demo";
}

const SHELLS = ["bash", "zsh"] as const;
export type Shell = (typeof SHELLS)[number];

export interface CompletionsOptions {
  command: "completions";
  shell: Shell;
}

export interface HelpOptions {
  command: "help";
  /** The command, or `fault-points`, that help is wanted for; null: all commands. */
  topic: string | null;
}

export interface VersionOptions {
  command: "version";
}

export interface XenPipeOptions {
  command: "xen-pipe";
  /** Absolute path of a unix socket. */
  socket: string;
}

/** What a command line asks for. */
export type Command =
  | SendOptions
  | ReceiveOptions
  | StatusOptions
  | ResolveOptions
  | CancelOptions
  | SetOptions
  | DemoOptions
  | CompletionsOptions
  | HelpOptions
  | VersionOptions
  | XenPipeOptions;

const DEMO_COMMAND = defineCommand({
  name: "demo",
  summary: "move a small test guest between two QEMUs on this machine",
  about:
    "Starts a tiny busy guest with two disks, moves it to a second QEMU on this machine with " +
    "a sender and a receiver of its own, and proves that its counter went on unbroken, its memory " +
    "is consistent and the disks are equal. Needs QEMU and qemu-img and leaves nothing behind.",
  examples: [{ task: "See a migration", line: "migrate-agent demo" }],
  options: [],
  read: (): DemoOptions => ({ command: "demo" }),
});

const COMPLETIONS_COMMAND = defineCommand({
  name: "completions",
  summary: "print the completions for a shell",
  about: "Prints a script that teaches a shell to complete commands, options and their values.",
  examples: [
    { task: "bash, in this shell", line: "source <(migrate-agent completions bash)" },
    {
      task: "zsh, for good",
      line: "migrate-agent completions zsh > /usr/local/share/zsh/site-functions/_migrate-agent",
    },
  ],
  positional: { name: "SHELL", required: true, choices: () => SHELLS },
  options: [],
  read(given): CompletionsOptions {
    return { command: "completions", shell: SHELLS.find((s) => s === given.positional)! };
  },
});

const XEN_PIPE_COMMAND = defineCommand({
  name: "xen-pipe",
  hidden: true,
  summary: "what `xl migrate` runs instead of ssh",
  about: "Joins standard input and output to a unix socket of the sender that has started xl.",
  examples: [],
  positional: { name: "SOCKET", required: true },
  options: [],
  read: (given, around): XenPipeOptions => ({
    command: "xen-pipe",
    socket: readSocketPath(around.cwd)(given.positional!, "SOCKET"),
  }),
});

/** What tests ask for: where `--fail-at` can strike. */
export const FAULT_POINTS_TOPIC = "fault-points";

const HELP_COMMAND = defineCommand({
  name: "help",
  summary: "explain a command",
  about: "Explains all commands, or one of them with its options and examples.",
  examples: [{ task: "How to send a guest", line: "migrate-agent help send" }],
  positional: {
    name: "COMMAND",
    required: false,
    choices: () => [...SHOWN_COMMANDS.map((command) => command.name), FAULT_POINTS_TOPIC],
  },
  options: [],
  read: (given): HelpOptions => ({ command: "help", topic: given.positional }),
});

/** In the order in which help shows them. */
export const SHOWN_COMMANDS: readonly CommandSpec<Command>[] = [
  RECEIVE_COMMAND,
  SEND_COMMAND,
  STATUS_COMMAND,
  RESOLVE_COMMAND,
  CANCEL_COMMAND,
  SET_COMMAND,
  DEMO_COMMAND,
  COMPLETIONS_COMMAND,
  HELP_COMMAND,
];

/** All that this program understands. */
export const COMMANDS: readonly CommandSpec<Command>[] = [...SHOWN_COMMANDS, XEN_PIPE_COMMAND];
