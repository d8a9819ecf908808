import { assertEquals, assertThrows } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import { formatAddress, parseAddress } from "../../../src/link/address.ts";

const GOOD: [string, string, number][] = [
  ["127.0.0.1:0", "127.0.0.1", 0],
  ["host-b.example.org:4444", "host-b.example.org", 4444],
  ["[::1]:65535", "::1", 65535],
  ["[fe80::1%eth0]:1", "fe80::1%eth0", 1],
  ["[::ffff:10.0.0.1]:22", "::ffff:10.0.0.1", 22],
];

for (const [text, host, port] of GOOD) {
  Deno.test(`the address ${text} is read and written`, () => {
    assertEquals(parseAddress(text), { host, port });
    assertEquals(formatAddress({ host, port }), text);
  });
}

const BAD = [
  "",
  "host",
  "host:",
  ":4444",
  "host:65536",
  "host:-1",
  "host:4444x",
  "host: 4444",
  "ho st:4444",
  "::1:4444",
  "[::1]",
  "[::1]4444",
  "[host]:4444",
  "[1234]:4444",
  "host:4444\n",
  "tcp://host:4444",
];

for (const text of BAD) {
  Deno.test(`refused as an address: ${JSON.stringify(text)}`, () => {
    const error = assertThrows(() => parseAddress(text), AgentError);
    assertEquals([error.code, error.kind], ["bad_address", "usage"]);
  });
}
