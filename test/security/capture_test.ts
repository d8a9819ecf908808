// What somebody on the network between the hosts can read of a guest: nothing; and that the search
// for it works is shown by the same migration with --insecure.

import { assertEquals, assertGreater } from "@std/assert";
import { requires } from "../lib/requires.ts";
import { Capture } from "./capture.ts";
import { TwoHosts } from "./two_hosts.ts";

const MIB = 2 ** 20;
/** In the memory of every guest that SeaBIOS has started, and on no disk. */
const MEMORY_TEXT = "SeaBIOS (version";
const DISK_TEXT = `on the guest's disk: ${crypto.randomUUID()} ${crypto.randomUUID()}`;
const NBD_TEXT = "NBDMAGIC";

function diskContent(): Uint8Array {
  const line = new TextEncoder().encode(DISK_TEXT + "\n");
  const content = new Uint8Array(4 * MIB);
  for (let at = 0; at + line.length < content.length; at += line.length) content.set(line, at);
  return content;
}

interface Case {
  name: string;
  receive: readonly string[];
  send: readonly string[];
  ticket: boolean;
  /** What can be read: memory, disk. */
  visible: [memory: boolean, disk: boolean];
}

const CASES: readonly Case[] = [
  { name: "by default", receive: [], send: [], ticket: true, visible: [false, false] },
  {
    name: "through a tunnel",
    receive: [],
    send: ["--nbd", "tunnel"],
    ticket: true,
    visible: [false, false],
  },
  {
    name: "with --insecure-nbd",
    receive: ["--insecure-nbd"],
    send: ["--insecure-nbd"],
    ticket: true,
    visible: [false, true],
  },
  {
    name: "with --insecure",
    receive: ["--insecure"],
    send: ["--insecure"],
    ticket: false,
    visible: [true, true],
  },
];

for (const { name, receive, send, ticket, visible } of CASES) {
  Deno.test({
    name: `security: what the network shows of a guest that is moved ${name}`,
    ...requires("root", "ip", "tcpdump", "qemu-system-x86_64", "qemu-img"),
    async fn() {
      const signal = AbortSignal.timeout(120_000);
      await using hosts = await TwoHosts.create({ content: diskContent(), signal });
      const { net, temp, site } = hosts;
      await using capture = await Capture.start(net, {
        host: net.left,
        path: temp.file("packets"),
        signal,
      });
      const ticketFile = temp.file("ticket");
      const given = ticket ? ["--ticket-file", ticketFile] : [];
      const { address } = await hosts.receive([...given, ...receive], signal);
      const way = ticket ? given : ["--to", address];
      await hosts.run(net.left, hosts.send([...way, ...send]), signal);
      const { bytes, found } = await capture.search([MEMORY_TEXT, DISK_TEXT, NBD_TEXT]);
      console.log(`  ${name}: ${(bytes / MIB).toFixed(1)} MiB captured; found: ${found}`);
      assertGreater(bytes, 4 * MIB, "not the whole migration was captured");
      assertEquals([found[0]! > 0, found[1]! > 0], visible);
      await site.assertNoTemporaryFiles();
    },
  });
}
