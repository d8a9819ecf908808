// The sender's way to the receiver, whichever was asked for: a ticket, a shared secret, ssh, or none
// of them (--insecure); and the way back to it when the connection is lost.

import * as v from "valibot";
import { AgentError } from "../src/base/errors.ts";
import type { SendConnection } from "../src/cli/connection_options.ts";
import { formatAddress } from "../src/link/address.ts";
import { dial } from "../src/link/dial.ts";
import { openSsh } from "../src/link/process_link.ts";
import { readSecretFile, readTicket } from "../src/link/secret_files.ts";
import { dialSecure, type DialTarget, targetOfSecret, targetOfTicket } from "../src/link/secure.ts";
import { checkTicketAge, decodeTicket, encodeTicket, type Ticket } from "../src/link/ticket.ts";
import type { ByteLink } from "../src/wire/byte_link.ts";

/** At least; a peer that may be silent for longer may take longer to answer, too. */
const DIAL_TIMEOUT_MS = 10_000;

/** A connection to the other agent, ready for the wire. */
export interface Connection {
  link: ByteLink;
  /** The other agent, as people know it. */
  peer: string;
  /** Whether nobody but the two agents can read it. */
  encrypted: boolean;
  /** Whether the disks may have a way of their own: over ssh there is none. */
  direct: boolean;
  /** How the same receiver is reached once more. A secret: for the journal alone. */
  again: Reach;
}

const text = v.pipe(v.string(), v.maxLength(4096));
const HostPortSchema = v.object({ host: text, port: v.pipe(v.number(), v.integer()) });
const ReachSchema = v.variant("by", [
  v.object({ by: v.literal("insecure"), to: HostPortSchema }),
  v.object({
    by: v.literal("secret"),
    to: HostPortSchema,
    secretFile: text,
    tlsCa: v.nullable(text),
  }),
  /** A ticket was used up; the secret in this one follows from its proof. */
  v.object({ by: v.literal("resume"), ticket: text, tlsCa: v.nullable(text) }),
  v.object({
    by: v.literal("ssh"),
    target: text,
    program: text,
    options: text,
    config: v.nullable(text),
  }),
]);

/** A way to a receiver that this host has reached before, as it stands in a journal. */
export type Reach = v.InferOutput<typeof ReachSchema>;

/** Null when a journal holds none, or not this form of it. */
export function readReach(value: unknown): Reach | null {
  const result = v.safeParse(ReachSchema, value);
  return result.success ? result.output : null;
}

/** @throws AgentError that says which side could not be reached or was not who it should be */
export async function connect(
  connection: SendConnection,
  { peerTimeoutMs, signal }: { peerTimeoutMs: number; signal: AbortSignal },
): Promise<Connection> {
  const options = { signal, timeoutMs: Math.max(DIAL_TIMEOUT_MS, peerTimeoutMs) };
  switch (connection.by) {
    case "ssh":
      return {
        link: openSsh(connection),
        peer: `ssh:${connection.target}`,
        encrypted: true,
        direct: false,
        again: connection,
      };
    case "insecure": {
      const { to } = connection;
      const link = await dial(to, options);
      return { link, peer: formatAddress(to), encrypted: false, direct: true, again: connection };
    }
    case "secret": {
      const { link } = await dialSecure(await targetOf(connection, signal), options);
      return {
        link,
        peer: formatAddress(connection.to),
        encrypted: true,
        direct: true,
        again: connection,
      };
    }
    case "ticket": {
      const { ticket, target } = await readTarget(connection, signal);
      const { link, resumeSecret } = await dialSecure(target, options);
      const { address } = target;
      const again = encodeTicket({ ...ticket, address, secret: resumeSecret });
      return {
        link,
        peer: formatAddress(address),
        encrypted: true,
        direct: true,
        again: { by: "resume", ticket: again, tlsCa: connection.tlsCa },
      };
    }
  }
}

/** Another connection to a receiver that was reached before. */
export async function connectAgain(
  reach: Reach,
  options: { signal: AbortSignal; timeoutMs: number },
): Promise<ByteLink> {
  switch (reach.by) {
    case "ssh":
      return openSsh(reach);
    case "insecure":
      return await dial(reach.to, options);
    case "secret":
      return (await dialSecure(await targetOf(reach, options.signal), options)).link;
    case "resume": {
      const authorityPem = reach.tlsCa === null ? null : await readAuthority(reach.tlsCa);
      const target = targetOfTicket(decodeTicket(reach.ticket), authorityPem);
      return (await dialSecure(target, options)).link;
    }
  }
}

async function targetOf(
  { to, secretFile, tlsCa }: Extract<SendConnection, { by: "secret" }>,
  signal: AbortSignal,
): Promise<DialTarget> {
  const authorityPem = tlsCa === null ? null : await readAuthority(tlsCa);
  const secret = await readSecretFile(secretFile, signal);
  return targetOfSecret(to, { secret, authorityPem });
}

async function readTarget(
  connection: Extract<SendConnection, { by: "ticket" }>,
  signal: AbortSignal,
): Promise<{ ticket: Ticket; target: DialTarget }> {
  const { tlsCa, to, file } = connection;
  const authorityPem = tlsCa === null ? null : await readAuthority(tlsCa);
  const ticket = await readTicket({ file, stdin: Deno.stdin, env: Deno.env, signal });
  if (ticket === null) {
    throw new AgentError("no_ticket", "No ticket was given", {
      kind: "usage",
      hint: "give --ticket-file FILE (- for standard input) or set MIGRATE_AGENT_TICKET to what " +
        "the receiver has printed; or use --secret-file, --via or --insecure",
    });
  }
  checkTicketAge(ticket, Date.now());
  const target = targetOfTicket(ticket, authorityPem);
  return { ticket, target: to === null ? target : { ...target, address: to } };
}

async function readAuthority(path: string): Promise<string> {
  try {
    return await Deno.readTextFile(path);
  } catch (cause) {
    throw new AgentError("cannot_read_authority", `Cannot read --tls-ca '${path}'`, {
      kind: "usage",
      cause,
    });
  }
}
