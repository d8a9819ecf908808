// `HOST:PORT` as people write it. Knows nothing of connections; names are not resolved here.

import { AgentError, quote } from "../base/errors.ts";

export interface Address {
  /** A name or an IP address; an IPv6 address without brackets. */
  host: string;
  port: number;
}

const FORM = /^(?:\[(?<v6>[0-9a-fA-F:.]+(?:%[\w.-]+)?)\]|(?<host>[\w.-]+)):(?<port>\d{1,5})$/;

/** Port 0 is allowed: for listening, it asks for one that is free. */
export function parseAddress(text: string): Address {
  const groups = FORM.exec(text)?.groups;
  const host = groups?.host ?? groups?.v6;
  const port = Number(groups?.port);
  if (host === undefined || port > 65535 || (groups?.v6 !== undefined && !host.includes(":"))) {
    throw new AgentError("bad_address", `Cannot use ${quote(text)} as an address`, {
      kind: "usage",
      hint: "Write HOST:PORT or [IPV6]:PORT, with a port from 0 to 65535.",
    });
  }
  return { host, port };
}

/** What `parseAddress` reads. */
export function formatAddress(address: Address): string {
  const { host, port } = address;
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}
