// The little of `@std/net` that this project needs, under that package's names. The npm form of the
// standard library leaves `net` out; where JSR can be reached, `@std/net` in deno.json can point
// there instead, in one line, and this file goes.

export interface GetAvailablePortOptions {
  /** Tried first; another one is taken when it is in use. */
  preferredPort?: number;
}

/**
 * A TCP port that was free a moment ago. Whoever uses it must be ready to find it taken and ask
 * again: between this answer and the bind somebody else may come.
 */
export function getAvailablePort(options: GetAvailablePortOptions = {}): number {
  const wanted = options.preferredPort ?? 0;
  try {
    using listener = Deno.listen({ port: wanted });
    return listener.addr.port;
  } catch (error) {
    if (wanted === 0 || !(error instanceof Deno.errors.AddrInUse)) throw error;
    return getAvailablePort();
  }
}

/** This machine's first address of a family that others can reach, or undefined when there is none. */
export function getNetworkAddress(family: "IPv4" | "IPv6" = "IPv4"): string | undefined {
  return Deno.networkInterfaces().find((i) =>
    i.family === family &&
    (family === "IPv4"
      ? !i.address.startsWith("127")
      : !(i.address === "::1" || i.address.startsWith("fe80")))
  )?.address;
}
