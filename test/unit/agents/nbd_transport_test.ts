// Which way the disks travel, for every kind of connection, wish and QEMU.

import { assertEquals, assertRejects } from "@std/assert";
import { chooseTransport, type NbdEnd, reachNbd, serveNbd } from "../../../agents/nbd_transport.ts";
import { AgentError } from "../../../src/base/errors.ts";
import type { Exports } from "../../../src/guest/exports.ts";
import type { QemuFeatures } from "../../../src/guest/features.ts";

const signal = new AbortController().signal;
const withPsk = { psk: true } as QemuFeatures;
const withoutPsk = { psk: false } as QemuFeatures;
const range = { host: "192.0.2.1", ports: null };

/** An end of which nothing may be used: what is refused is refused before anything is done. */
const noEnd = {} as NbdEnd;

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
      serveNbd({} as Exports, {
        end: noEnd,
        asked: "direct",
        allowPlain: false,
        features: withPsk,
        listen: range,
        before: null,
        signal,
      }),
    AgentError,
  );
  assertEquals([refused.code, refused.kind], ["plain_nbd_refused", "refused"]);
});

Deno.test("a receiver cannot talk the sender into readable disks", async () => {
  const reply = { transport: "direct", host: "192.0.2.1", port: 10809, psk_key: null } as const;
  for (const asked of ["encrypted", "tunnel"] as const) {
    const refused = await assertRejects(
      () => reachNbd(reply, { end: noEnd, asked, signal }),
      AgentError,
    );
    assertEquals([refused.code, refused.side], ["plain_nbd_refused", "source"]);
  }
});

Deno.test("a receiver whose QEMU has no TLS, or that has no port, serves the tunnel", async () => {
  for (
    const { features, listen } of [
      { features: withoutPsk, listen: range },
      { features: withPsk, listen: null },
    ]
  ) {
    const listening: unknown[] = [];
    const exports = {
      start: (options: { listen: unknown; tlsCreds: unknown }) => {
        listening.push(options.listen, options.tlsCreds);
        return Promise.resolve({ port: null, exports: [] });
      },
    } as unknown as Exports;
    const end = {
      folder: { path: "/private" },
      line: { connected: () => new Promise(() => {}) },
      migration: { guard: () => {}, signal },
    } as unknown as NbdEnd;
    const served = await serveNbd(exports, {
      end,
      asked: "encrypted",
      allowPlain: false,
      features,
      listen,
      before: null,
      signal,
    });
    assertEquals(served.nbd, { transport: "tunnel" });
    assertEquals(listening, [{ type: "unix", path: "/private/nbd.sock" }, null]);
  }
});
