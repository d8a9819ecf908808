// Where secrets come from and go to: the ticket's file, environment variable or standard input, and
// the secret file that both hosts share. Nothing that is read here is ever quoted.

import { createHash } from "node:crypto";
import { abortable } from "../base/deadline.ts";
import { AgentError, describeError, quote, toAgentError } from "../base/errors.ts";
import { decodeTicket, MAX_TICKET_LENGTH, type Ticket } from "./ticket.ts";

export const TICKET_VARIABLE = "MIGRATE_AGENT_TICKET";

const MIN_SECRET_BYTES = 32;
const MIN_SECRET_BITS = 128;
const MAX_SECRET_BYTES = 4096;
/** White space around a ticket that is still forgiven. */
const MAX_TICKET_BYTES = MAX_TICKET_LENGTH + 64;
/** Group may write, others may do anything: too much for a file with a secret. */
const TOO_OPEN = 0o027;

export interface TicketSource {
  /** `--ticket-file`; "-" is standard input. */
  file: string | null;
  /** Standard input. */
  stdin: { read(p: Uint8Array): Promise<number | null> };
  /** The environment; the variable is taken out of it, so that no child process inherits it. */
  env: { get(name: string): string | undefined; delete(name: string): void };
  signal: AbortSignal;
}

/**
 * The ticket from its file, else from the environment; null when there is neither. Throws
 * `bad_ticket`, `cannot_read_secret` or `secret_file_open` (kind "usage"), or the signal's reason; a
 * cancelled read may have taken bytes from standard input.
 */
export async function readTicket(
  { file, stdin, env, signal }: TicketSource,
): Promise<Ticket | null> {
  const variable = env.get(TICKET_VARIABLE);
  env.delete(TICKET_VARIABLE);
  if (file === null) return variable === undefined ? null : decodeTicket(variable);
  const bytes = file === "-"
    ? await readAtMost(stdin, { what: "standard input", maxBytes: MAX_TICKET_BYTES, signal })
    : await readPrivateFile(file, { maxBytes: MAX_TICKET_BYTES, signal });
  return decodeTicket(new TextDecoder().decode(bytes));
}

/**
 * Writes `ticket` to `path`, whole or not at all, mode 0600. What was there is replaced, also when it
 * is a link (the link, not what it names). Throws `cannot_write_ticket`.
 */
export async function writeTicketFile(path: string, ticket: string): Promise<void> {
  const temporary = `${path}.${crypto.randomUUID()}`;
  try {
    using file = await Deno.open(temporary, { write: true, createNew: true, mode: 0o600 });
    const bytes = new TextEncoder().encode(ticket + "\n");
    let done = 0;
    while (done < bytes.length) done += await file.write(bytes.subarray(done));
    await file.sync();
    await Deno.rename(temporary, path);
  } catch (error) {
    const failure = new AgentError(
      "cannot_write_ticket",
      `Cannot write the ticket to ${quote(path)}: ${describeError(error)}`,
      {
        hint: "Name a file in a folder that exists and that this user may write to.",
        cause: error,
      },
    );
    await removeIfThere(temporary).catch((e) => failure.undoErrors.push(toAgentError(e)));
    throw failure;
  }
}

/**
 * The secret of `--secret-file`: the hash of the file's bytes without the white space at its end.
 * Throws `weak_secret` when there is too little in it, and what `readTicket` throws for files.
 */
export async function readSecretFile(path: string, signal: AbortSignal): Promise<Uint8Array> {
  const bytes = trimEnd(await readPrivateFile(path, { maxBytes: MAX_SECRET_BYTES, signal }));
  if (bytes.length < MIN_SECRET_BYTES || estimateBits(bytes) < MIN_SECRET_BITS) {
    throw new AgentError(
      "weak_secret",
      `The secret in ${quote(path)} is too easy to guess: ` +
        `at least ${MIN_SECRET_BYTES} random bytes or characters are needed`,
      { kind: "usage", hint: `Make one with 'openssl rand -base64 32', the same on both hosts.` },
    );
  }
  return createHash("sha256").update("migrate-agent secret file 1\n").update(bytes).digest();
}

/** A file that a secret may be in: of this user or root, closed to others. */
async function readPrivateFile(
  path: string,
  limits: { maxBytes: number; signal: AbortSignal },
): Promise<Uint8Array> {
  let file: Deno.FsFile;
  try {
    file = await Deno.open(path);
  } catch (error) {
    throw cannotRead(quote(path), error);
  }
  using _ = file;
  // The file that was opened, not the name: it cannot be exchanged in between.
  const { mode, uid, isDirectory } = await file.stat();
  if (isDirectory) throw cannotRead(quote(path), "it is a folder");
  if (((mode ?? 0) & TOO_OPEN) !== 0) {
    const octal = ((mode ?? 0) & 0o777).toString(8).padStart(4, "0");
    throw new AgentError(
      "secret_file_open",
      `Will not use ${quote(path)}: its mode ${octal} lets others read or change it`,
      { kind: "usage", hint: `Run 'chmod 600 ${path}', and change the secret if others saw it.` },
    );
  }
  if (uid !== null && uid !== 0 && uid !== Deno.uid()) {
    throw new AgentError(
      "secret_file_open",
      `Will not use ${quote(path)}: it belongs to user ${uid}, not to this user or root`,
      { kind: "usage", hint: "Change its owner." },
    );
  }
  return await readAtMost(file, { what: quote(path), ...limits });
}

async function readAtMost(
  from: { read(p: Uint8Array): Promise<number | null> },
  { what, maxBytes, signal }: { what: string; maxBytes: number; signal: AbortSignal },
): Promise<Uint8Array> {
  const room = new Uint8Array(maxBytes + 1);
  let done = 0;
  try {
    while (done < room.length) {
      const count = await abortable(from.read(room.subarray(done)), signal);
      if (count === null) return room.subarray(0, done);
      done += count;
    }
  } catch (error) {
    throw signal.aborted ? error : cannotRead(what, error);
  }
  throw cannotRead(what, `more than ${maxBytes} bytes are in it`);
}

/** A rough upper bound by the bytes' frequencies: it refuses what is plainly no random secret. */
function estimateBits(bytes: Uint8Array): number {
  const counts = new Map<number, number>();
  for (const byte of bytes) counts.set(byte, (counts.get(byte) ?? 0) + 1);
  let bits = 0;
  for (const count of counts.values()) bits += count * Math.log2(bytes.length / count);
  return bits;
}

/** Without the line end of a text. In random bytes what looks like one is a part of the secret. */
function trimEnd(bytes: Uint8Array): Uint8Array {
  const isText = bytes.every((byte) => (byte >= 0x20 && byte < 0x7f) || [9, 10, 13].includes(byte));
  if (!isText) return bytes;
  let end = bytes.length;
  while (end > 0 && [0x09, 0x0a, 0x0d, 0x20].includes(bytes[end - 1]!)) end--;
  return bytes.subarray(0, end);
}

async function removeIfThere(path: string): Promise<void> {
  try {
    await Deno.remove(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

function cannotRead(what: string, cause: unknown): AgentError {
  return new AgentError(
    "cannot_read_secret",
    `Cannot read a ticket or secret from ${what}: ${describeError(cause)}`,
    { kind: "usage", cause },
  );
}
