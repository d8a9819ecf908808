// What can be reached while a guest is on its way: of encrypted disks nothing without their key, in a
// tunnel one port, over ssh none.

import { assert, assertEquals, assertNotEquals } from "@std/assert";
import { delay } from "../../src/base/deadline.ts";
import { AnsibleHosts } from "../ansible/hosts.ts";
import { agentCommand } from "../lib/agents.ts";
import { capture } from "../lib/command.ts";
import { makeNoise } from "../lib/disks.ts";
import { requires } from "../lib/requires.ts";
import { HELD, releaseMirrors } from "./lab.ts";
import { findAgents } from "./process_facts.ts";
import { findListeners, type Listeners } from "./listeners.ts";
import { TwoHosts } from "./two_hosts.ts";

const MIB = 2 ** 20;
const LOOK_MS = 20;
const limit = () => AbortSignal.timeout(120_000);
const NEEDS = ["root", "ip", "ss", "qemu-system-x86_64", "qemu-img"];

/** Runs a sender and looks at both hosts while it is held in the middle of its mirrors. */
async function lookAt(
  hosts: TwoHosts,
  { send, look, signal }: {
    send: readonly string[];
    look: (listening: { left: Listeners; right: Listeners }) => Promise<void>;
    signal: AbortSignal;
  },
): Promise<void> {
  const { net, source, site } = hosts;
  const ending = new AbortController();
  const sending = hosts.capture(net.left, hosts.send([...send, ...HELD]), signal);
  sending.then(({ stdout, stderr }) => ending.abort(new Error(`It ended: ${stdout}${stderr}`)));
  const both = AbortSignal.any([signal, ending.signal]);
  while ((await source.monitor.execute("query-block-jobs", {}, { signal })).length < 2) {
    await delay(LOOK_MS, both);
  }
  await look({
    left: await findListeners({ net, host: net.left, signal }),
    right: await findListeners({ net, host: net.right, signal }),
  });
  await releaseMirrors(source, signal);
  const { code, stdout, stderr } = await sending;
  assertEquals(code, 0, stdout + stderr);
  // The receiver may still be at its tidying when the sender has ended.
  while ((await findAgents(site.run)).length > 0) await delay(LOOK_MS, signal);
  await site.assertNoTemporaryFiles();
}

/** Sockets may only be in folders that nobody else can enter. */
async function assertPrivate(sockets: readonly string[]): Promise<void> {
  for (const path of sockets) {
    assert(path.startsWith("/"), `'${path}' is in no folder`);
    const folder = path.slice(0, path.lastIndexOf("/"));
    assertEquals((await Deno.stat(folder)).mode! & 0o077, 0, `others can reach ${path}`);
  }
}

Deno.test({
  name: "security: encrypted disks are out of reach without their key",
  ...requires(...NEEDS, "nbdinfo", "nbdcopy"),
  async fn() {
    const signal = limit();
    await using hosts = await TwoHosts.create({ content: makeNoise(8 * MIB), signal });
    const { net, temp } = hosts;
    const ticket = ["--ticket-file", temp.file("ticket")];
    const { address } = await hosts.receive(ticket, signal);
    await lookAt(hosts, {
      send: ticket,
      signal,
      async look({ right }) {
        const nbd = right.ports.filter(({ port }) => !address.endsWith(`:${port}`));
        assertEquals([right.ports.length, nbd.length], [2, 1]);
        const uri = `//${net.right.address}:${nbd[0]!.port}/disk-1`;
        for (
          const attempt of [
            ["nbdinfo", `nbd:${uri}`],
            ["nbdinfo", "--list", `nbd:${uri}`],
            ["nbdinfo", `nbds:${uri}?tls-verify-peer=false`],
            ["nbdcopy", `nbd:${uri}`, temp.file("stolen")],
            ["nbdcopy", temp.file("data"), `nbd:${uri}`],
            ["qemu-img", "info", `nbd:${uri}`],
          ]
        ) {
          const { code, stdout, stderr } = await capture(net.inside(net.left, attempt), signal);
          assertNotEquals(code, 0, `${attempt.join(" ")}: ${stdout}${stderr}`);
          console.log(`  ${attempt[0]}: ${stderr.trim().split("\n")[0]}`);
        }
      },
    });
  },
});

Deno.test({
  name: "security: in a tunnel one port is open, and no socket that others can reach",
  ...requires(...NEEDS),
  async fn() {
    const signal = limit();
    await using hosts = await TwoHosts.create({ content: makeNoise(8 * MIB), signal });
    const ticket = ["--ticket-file", hosts.temp.file("ticket")];
    const { address } = await hosts.receive(ticket, signal);
    await lookAt(hosts, {
      send: [...ticket, "--nbd", "tunnel"],
      signal,
      async look({ left, right }) {
        assertEquals(left.ports, []);
        assertEquals(right.ports.map(({ port }) => port), [Number(address.split(":").at(-1))]);
        assertEquals(right.sockets.filter((path) => path.endsWith("nbd.sock")).length, 1);
        await assertPrivate([...left.sockets, ...right.sockets]);
      },
    });
  },
});

Deno.test({
  name: "security: over ssh nothing listens but sshd",
  ...requires(...NEEDS, "ssh", "sshd", "ssh-keygen"),
  async fn() {
    const signal = limit();
    await using servers = await AnsibleHosts.create(signal);
    const { net } = servers;
    await using hosts = await TwoHosts.create({ content: makeNoise(8 * MIB), net, signal });
    const { site } = hosts;
    const program = site.file("migrate-agent");
    const command = agentCommand().map((word) => `'${word}'`).join(" ");
    const script = `#!/bin/sh\nexport TMPDIR='${site.tmp}'\nexec ${command} "$@"\n`;
    await Deno.writeTextFile(program, script, { mode: 0o700 });
    const config = site.file("ssh_config");
    await Deno.writeTextFile(
      config,
      [
        `IdentityFile ${servers.file("client_key")}`,
        `UserKnownHostsFile ${servers.file("known_hosts")}`,
        "IdentitiesOnly yes",
        "",
      ].join("\n"),
    );
    await lookAt(hosts, {
      send: [
        ...["--via", `ssh:root@${net.right.address}`, "--ssh-config", config],
        ...["--via-program", program],
        `--via-options=--disk-dir ${site.disks} --run-dir ${site.run} ` +
        `--state-dir ${site.stateDirs.destination}`,
      ],
      signal,
      async look({ left, right }) {
        for (const { ports } of [left, right]) {
          assertEquals(ports.map(({ program }) => program), ["sshd"]);
        }
        await assertPrivate([...left.sockets, ...right.sockets]);
      },
    });
  },
});
