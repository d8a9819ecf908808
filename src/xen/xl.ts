// Xen's toolstack by its documented interface, xl(1): runs it and reads what it prints, as JSON where
// xl offers JSON. Knows nothing of migrations.

import { Deadline } from "../base/deadline.ts";
import { AgentError, describeError, quote } from "../base/errors.ts";

/** What xl may take for a question or a small change; a host under load takes seconds. */
const XL_TIMEOUT_MS = 60_000;
const MAX_MESSAGE_CHARS = 1000;

/** A domain as `xl vm-list` names it: also one that is only half made. */
export interface DomainName {
  domid: number;
  uuid: string;
  name: string;
}

export interface DomainState {
  paused: boolean;
  /** Null while it runs or waits; else why it has stopped. */
  shutdown: "poweroff" | "reboot" | "suspend" | "crash" | "watchdog" | "soft_reset" | null;
  dying: boolean;
}

const SHUTDOWN_LETTERS: Record<string, NonNullable<DomainState["shutdown"]>> = {
  "-": "poweroff",
  r: "reboot",
  s: "suspend",
  c: "crash",
  w: "watchdog",
  S: "soft_reset",
};

/**
 * Runs a program of Xen's to its end; its stdout.
 * @throws AgentError `xen_tool_missing` (kind refused), `xen_tool_failed` with what it said
 */
export async function runTool(
  program: string,
  args: readonly string[],
  options: { signal?: AbortSignal; timeoutMs?: number } = {},
): Promise<string> {
  const { timeoutMs = XL_TIMEOUT_MS } = options;
  const line = quote([program, ...args].join(" "));
  using limit = new Deadline(
    timeoutMs,
    () => new AgentError("xen_tool_failed", `${line} did not end within ${timeoutMs} ms`),
    options.signal,
  );
  let output: Deno.CommandOutput;
  try {
    output = await new Deno.Command(program, {
      args: [...args],
      stdin: "null",
      signal: limit.signal,
    }).output();
  } catch (cause) {
    limit.signal.throwIfAborted();
    throw new AgentError("xen_tool_missing", `Cannot run ${line}: ${describeError(cause)}`, {
      kind: "refused",
      cause,
      hint: "install Xen's tools (Debian: xen-utils, xenstore-utils) and run as root in dom0",
    });
  }
  limit.signal.throwIfAborted(); // it was ended for that, and has printed a part
  const text = new TextDecoder();
  if (output.success) return text.decode(output.stdout);
  const said = text.decode(output.stderr).trim() || text.decode(output.stdout).trim();
  throw new XenToolError(line, said || `exit status ${output.code}`);
}

/** A program of Xen's said no. `said` is what it printed. */
export class XenToolError extends AgentError {
  readonly said: string;

  constructor(line: string, said: string) {
    super("xen_tool_failed", `${line} failed: ${quote(said, MAX_MESSAGE_CHARS)}`);
    this.said = said;
  }
}

/** `xl list -l`: the domain's id and its configuration as libxl keeps it. */
export async function readDomain(
  domain: string,
  signal: AbortSignal,
): Promise<{ domid: number; config: Record<string, unknown> }> {
  let text: string;
  try {
    text = await runTool("xl", ["list", "-l", domain], { signal });
  } catch (error) {
    if (!(error instanceof XenToolError) || !isUnknownDomain(error)) throw error;
    throw new AgentError("unknown_domain", `There is no Xen domain ${quote(domain)} here`, {
      kind: "refused",
      cause: error,
      hint: "xl list shows the domains of this host",
    });
  }
  const document: unknown = JSON.parse(text);
  const [found] = Array.isArray(document) ? document : [document];
  if (isRecord(found) && typeof found.domid === "number" && isRecord(found.config)) {
    return { domid: found.domid, config: found.config };
  }
  throw new AgentError(
    "unknown_domain",
    `xl gives no configuration of the domain ${quote(domain)}`,
    { kind: "refused", hint: "only domains that xl itself created can be moved" },
  );
}

/** Every domain but dom0. */
export async function listDomains(signal?: AbortSignal): Promise<DomainName[]> {
  return parseDomainNames(await runTool("xl", ["vm-list"], signal ? { signal } : {}));
}

/** The domain with that UUID, whatever it is called at the moment; null when there is none. */
export async function findByUuid(uuid: string, signal?: AbortSignal): Promise<DomainName | null> {
  const wanted = uuid.toLowerCase();
  return (await listDomains(signal)).find((domain) => domain.uuid === wanted) ?? null;
}

export function parseDomainNames(text: string): DomainName[] {
  const found: DomainName[] = [];
  for (const line of text.split("\n")) {
    const match = /^([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\s+(\d+)\s+(.*?)\s*$/i.exec(line);
    if (!match || match[2] === "0") continue;
    found.push({ uuid: match[1]!.toLowerCase(), domid: Number(match[2]), name: match[3]! });
  }
  return found;
}

/** What the domain does; null when there is none with that id (any more). */
export async function queryState(domid: number, signal?: AbortSignal): Promise<DomainState | null> {
  try {
    const text = await runTool("xl", ["list", String(domid)], signal ? { signal } : {});
    return parseState(text, domid);
  } catch (error) {
    if (error instanceof XenToolError && isUnknownDomain(error)) return null;
    throw error;
  }
}

/** The row of `xl list`: name, id, memory, vcpus, six letters of state, time. */
export function parseState(text: string, domid: number): DomainState | null {
  for (const line of text.split("\n")) {
    const row = /\s(\d+)\s+\d+\s+\d+\s+[r-][b-]([p-])([s-])(.)([d-])\s+[\d.]+\s*$/.exec(line);
    if (!row || Number(row[1]) !== domid) continue;
    return {
      paused: row[2] === "p",
      shutdown: row[3] === "s" ? SHUTDOWN_LETTERS[row[4]!] ?? "poweroff" : null,
      dying: row[5] === "d",
    };
  }
  return null;
}

/** `xl info`, by name. */
export async function queryHost(signal: AbortSignal): Promise<ReadonlyMap<string, string>> {
  const rows = (await runTool("xl", ["info"], { signal })).split("\n")
    .map((line) => /^(\w+)\s*:\s?(.*)$/.exec(line))
    .filter((row) => row !== null);
  return new Map(rows.map((row) => [row[1]!, row[2]!.trim()]));
}

/** Ends a domain for certain; it may be gone already. */
export async function destroyDomain(domid: number): Promise<void> {
  try {
    await runTool("xl", ["destroy", String(domid)]);
  } catch (error) {
    if (await queryState(domid) !== null) throw error;
  }
}

/** What xl calls a domain of the source while it hands it over. */
export function awayName(name: string): string {
  return `${name}--migratedaway`;
}

/** What xl calls a domain of the destination until it runs. */
export function incomingName(name: string): string {
  return `${name}--incoming`;
}

export async function renameDomain(domid: number, name: string): Promise<void> {
  await runTool("xl", ["rename", String(domid), name]);
}

function isUnknownDomain(error: XenToolError): boolean {
  return /invalid domain identifier|does not exist/i.test(error.said);
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
