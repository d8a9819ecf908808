// Which way the disks travel, for every kind of connection, wish and QEMU.

import { assertEquals, assertRejects } from "@std/assert";
import {
  chooseTransport,
  type DiskServers,
  type NbdEnd,
  reachNbd,
  serveNbd,
} from "../../../agents/nbd_transport.ts";
import type { Line } from "../../../agents/line.ts";
import { AgentError } from "../../../src/base/errors.ts";
import type { PrivateFolder } from "../../../src/guest/private_folder.ts";
import type { Migration } from "../../../src/migration/migration.ts";
import type { QemuFeatures } from "../../../src/guest/features.ts";

const signal = new AbortController().signal;
const withPsk = { psk: true } as QemuFeatures;
const withoutPsk = { psk: false } as QemuFeatures;
const range = { host: "192.0.2.1", ports: null };

/** An end of which nothing may be used: what is refused is refused before anything is done. */
const noEnd = {} as NbdEnd;
const nothing = { folder: {} as PrivateFolder, line: {} as Line, migration: {} as Migration };

Deno.test("the sender asks for disks that nobody can read, unless told otherwise", () => {
  const table = [
    // tunnel, insecureNbd, encrypted, QEMU's TLS: what is asked for
    [false, false, true, true, "encrypted"],
    [false, false, true, false, "tunnel"], // never in the clear because QEMU cannot do better
    [false, true, true, true, "direct"],
    [false, true, true, false, "direct"],
    [true, false, true, true, "tunnel"],
    [true, true, true, true, "tunnel"],
    [false, false, false, true, "direct"], // --insecure: everything is readable
    [false, false, false, false, "direct"],
    [true, false, false, true, "tunnel"],
  ] as const;
  for (const [tunnel, insecureNbd, encrypted, psk, expected] of table) {
    const features = psk ? withPsk : withoutPsk;
    const chosen = chooseTransport({ tunnel, insecureNbd, encrypted, features });
    assertEquals(chosen, expected, `${tunnel} ${insecureNbd} ${encrypted} ${psk}`);
  }
});

Deno.test("the receiver refuses readable disks before it listens, unless it allows them", async () => {
  const refused = await assertRejects(
    () =>
      serveNbd({} as DiskServers, {
        ...nothing,
        asked: "direct",
        allowPlain: false,
        listen: range,
        before: null,
        signal,
      }),
    AgentError,
  );
  assertEquals([refused.code, refused.kind], ["plain_nbd_refused", "refused"]);
});

Deno.test("a receiver cannot talk the sender into readable disks", async () => {
  const reply = {
    transport: "direct" as const,
    host: "192.0.2.1",
    ports: [10809],
    psk_key: null,
  };
  for (const asked of ["encrypted", "tunnel"] as const) {
    const refused = await assertRejects(
      () => reachNbd(reply, { end: noEnd, exports: [], asked, signal }),
      AgentError,
    );
    assertEquals([refused.code, refused.side], ["plain_nbd_refused", "source"]);
  }
});

Deno.test("a receiver cannot name an NBD server that it has not named the port of", async () => {
  const reply = {
    transport: "direct" as const,
    host: "192.0.2.1",
    ports: [10809],
    psk_key: "00".repeat(32),
  };
  const exports = [{ disk: "hda", export: "disk-0", server: 1 }];
  const refused = await assertRejects(
    () => reachNbd(reply, { end: noEnd, exports, asked: "encrypted", signal }),
    AgentError,
  );
  assertEquals(refused.code, "unknown_nbd_server");
});

Deno.test("a receiver whose QEMU has no TLS, or that has no port, serves the tunnel", async () => {
  for (
    const { encrypts, listen } of [
      { encrypts: false, listen: range },
      { encrypts: true, listen: null },
    ]
  ) {
    const listening: unknown[] = [];
    const servers: DiskServers = {
      encrypts,
      start: ({ listen, key }) => {
        listening.push(listen, key);
        return Promise.resolve({ ports: [], paths: ["/private/nbd.sock"], exports: [] });
      },
    };
    const served = await serveNbd(servers, {
      folder: { path: "/private" } as PrivateFolder,
      line: { connected: () => new Promise(() => {}) } as unknown as Line,
      migration: { guard: () => {}, signal } as unknown as Migration,
      asked: "encrypted",
      allowPlain: false,
      listen,
      before: null,
      signal,
    });
    assertEquals(served.nbd, { transport: "tunnel" });
    assertEquals(listening, [{ type: "unix", path: "/private/nbd.sock" }, null]);
  }
});

Deno.test("a stream of a tunnel that names no server ends the migration", async () => {
  for (const first of [null, Uint8Array.of(1)]) {
    const stream = {
      read: (into: Uint8Array) => {
        if (first) into.set(first);
        return Promise.resolve(first && 1);
      },
    };
    let failed: Promise<unknown> | undefined;
    let given = false;
    const session = {
      acceptStream: (_kind: string, signal: AbortSignal) =>
        new Promise((resolve, reject) => {
          signal.addEventListener("abort", () => reject(signal.reason));
          if (!given) resolve(stream);
          given = true;
        }),
    };
    const line = {
      connected: () => Promise.resolve({ session, lost: signal }),
      recovers: () => false,
      unlessLost: (work: Promise<void>) => work,
    };
    const servers: DiskServers = {
      encrypts: true,
      start: () => Promise.resolve({ ports: [], paths: ["/private/nbd.sock.0"], exports: [] }),
    };
    const migration = { guard: (work: Promise<unknown>) => failed = work, signal };
    await serveNbd(servers, {
      folder: { path: "/private" } as PrivateFolder,
      line: line as unknown as Line,
      migration: migration as unknown as Migration,
      asked: "tunnel",
      allowPlain: false,
      listen: range,
      before: null,
      signal,
    });
    const error = await assertRejects(() => failed!, AgentError);
    assertEquals(error.code, "unknown_nbd_server");
  }
});
