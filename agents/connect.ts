// The sender's way to the receiver, whichever was asked for: a ticket, a shared secret, ssh, or none
// of them (--insecure).

import { AgentError } from "../src/base/errors.ts";
import type { SendConnection } from "../src/cli/connection_options.ts";
import { formatAddress } from "../src/link/address.ts";
import { dial } from "../src/link/dial.ts";
import { openSsh } from "../src/link/process_link.ts";
import { readSecretFile, readTicket } from "../src/link/secret_files.ts";
import { dialSecure, type DialTarget, targetOfSecret, targetOfTicket } from "../src/link/secure.ts";
import { checkTicketAge } from "../src/link/ticket.ts";
import type { ByteLink } from "../src/wire/byte_link.ts";

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
}

/** @throws AgentError that says which side could not be reached or was not who it should be */
export async function connect(
  connection: SendConnection,
  signal: AbortSignal,
): Promise<Connection> {
  const options = { signal, timeoutMs: DIAL_TIMEOUT_MS };
  switch (connection.by) {
    case "ssh":
      return {
        link: openSsh(connection),
        peer: `ssh:${connection.target}`,
        encrypted: true,
        direct: false,
      };
    case "insecure": {
      const { to } = connection;
      const link = await dial(to, options);
      return { link, peer: formatAddress(to), encrypted: false, direct: true };
    }
    case "ticket":
    case "secret": {
      const target = await findTarget(connection, signal);
      const { link } = await dialSecure(target, options);
      return { link, peer: formatAddress(target.address), encrypted: true, direct: true };
    }
  }
}

async function findTarget(
  connection: Extract<SendConnection, { by: "ticket" | "secret" }>,
  signal: AbortSignal,
): Promise<DialTarget> {
  const { tlsCa, to } = connection;
  const authorityPem = tlsCa === null ? null : await readAuthority(tlsCa);
  if (connection.by === "secret") {
    const secret = await readSecretFile(connection.secretFile, signal);
    return targetOfSecret(connection.to, { secret, authorityPem });
  }
  const ticket = await readTicket({
    file: connection.file,
    stdin: Deno.stdin,
    env: Deno.env,
    signal,
  });
  if (ticket === null) {
    throw new AgentError("no_ticket", "No ticket was given", {
      kind: "usage",
      hint: "give --ticket-file FILE (- for standard input) or set MIGRATE_AGENT_TICKET to what " +
        "the receiver has printed; or use --secret-file, --via or --insecure",
    });
  }
  checkTicketAge(ticket, Date.now());
  const target = targetOfTicket(ticket, authorityPem);
  return to === null ? target : { ...target, address: to };
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
