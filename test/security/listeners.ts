// What listens on a host: TCP ports and unix sockets in its network namespace, by ss.

import { run } from "../lib/command.ts";
import type { TestHost, TestNet } from "../lib/netns.ts";

export interface Listeners {
  /** TCP ports, in order, with the name of the program. */
  ports: { port: number; program: string }[];
  /** Paths of unix sockets; those in no folder begin with "@". */
  sockets: string[];
}

export async function findListeners(
  { net, host, signal }: { net: TestNet; host: TestHost; signal: AbortSignal },
): Promise<Listeners> {
  const list = async (...options: string[]) => {
    const text = await run(net.inside(host, ["ss", "-lnpH", ...options]), signal);
    return text.split("\n").filter((line) => line !== "").map((line) => line.trim().split(/\s+/));
  };
  const ports = (await list("-t")).map((fields) => ({
    port: Number(fields[3]!.split(":").at(-1)),
    program: /"([^"]*)"/.exec(fields.at(-1)!)?.[1] ?? "",
  }));
  const sockets = (await list("-x")).map((fields) => fields[4]!);
  return { ports: ports.sort((a, b) => a.port - b.port), sockets: sockets.sort() };
}
