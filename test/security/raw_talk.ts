// Talking to a receiver by hand: bytes out, whatever comes back until it hangs up.

import type { Link } from "../../src/link/link.ts";

/** A sender's hello without its nonce. */
export const HELLO_HEAD: Uint8Array = new TextEncoder().encode("MIGAUTH\x01");

/** Sends as much as the other side takes before it hangs up. */
export async function say(link: Link, bytes: Uint8Array): Promise<void> {
  try {
    for (let at = 0; at < bytes.length;) at += await link.write(bytes.subarray(at));
  } catch (error) {
    if (!isHungUp(error)) throw error;
  }
}

/** Reads until the other side has ended the connection, whichever way, and closes it. */
export async function readToEnd(link: Link): Promise<Uint8Array> {
  const parts: number[] = [];
  const buffer = new Uint8Array(4096);
  try {
    for (let count = await link.read(buffer); count !== null; count = await link.read(buffer)) {
      parts.push(...buffer.subarray(0, count));
    }
  } catch (error) {
    if (!isHungUp(error)) throw error;
  } finally {
    closeQuietly(link);
  }
  return Uint8Array.from(parts);
}

/** Sends the same bytes again and again until the other side has hung up; how many it took. */
export async function sayForever(link: Link, bytes: Uint8Array): Promise<number> {
  let sent = 0;
  try {
    for (;;) sent += await link.write(bytes);
  } catch (error) {
    if (!isHungUp(error)) throw error;
    closeQuietly(link);
    return sent;
  }
}

export function join(...parts: Uint8Array[]): Uint8Array {
  return Uint8Array.from(parts.flatMap((part) => [...part]));
}

/** Ends a connection that the other direction may have ended already. */
export function closeQuietly(link: Link): void {
  try {
    link.close();
  } catch (error) {
    if (!(error instanceof Deno.errors.BadResource)) throw error;
  }
}

/** Every way in which a connection ends; TLS links have an error of their own for it. */
export function isHungUp(error: unknown): boolean {
  return error instanceof Deno.errors.Interrupted || error instanceof Deno.errors.BrokenPipe ||
    error instanceof Deno.errors.ConnectionReset ||
    error instanceof Deno.errors.ConnectionAborted || error instanceof Deno.errors.UnexpectedEof ||
    error instanceof Deno.errors.BadResource || error instanceof Deno.errors.InvalidData ||
    (error instanceof Error && "code" in error && error.code === "link_ended");
}
