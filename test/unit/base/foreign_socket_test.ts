// Sockets found and ended from outside, shown on this very process's own.

import { assertEquals, assertRejects } from "@std/assert";
import {
  borrowServerSockets,
  borrowSockets,
  heldSockets,
  kernelAddresses,
  listSockets,
  type ServerSocket,
  TCP_ESTABLISHED,
} from "../../../src/base/foreign_socket.ts";

const LITTLE_ENDIAN = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1;

Deno.test({
  name: "addresses as the kernel writes them",
  ignore: !LITTLE_ENDIAN, // the kernel writes words as this processor has them
  fn() {
    const cases: [string, string[]][] = [
      ["192.0.2.1", ["010200C0", "0000000000000000FFFF0000010200C0"]],
      ["::1", ["00000000000000000000000001000000"]],
      ["2001:db8::a:b", ["B80D012000000000000000000B000A00"]],
      ["fe80::1%eth0", ["000080FE000000000000000001000000"]],
      ["1:2:3:4:5:6:7:8", ["02000100040003000600050008000700"]],
      ["::ffff:192.0.2.1", ["0000000000000000FFFF0000010200C0"]],
    ];
    for (const [address, forms] of cases) assertEquals(kernelAddresses(address), forms, address);
  },
});

for (const hostname of ["127.0.0.1", "::1"]) {
  Deno.test(`a connection to ${hostname} is found by its far end, and aborted`, async () => {
    using listener = Deno.listen({ hostname, port: 0 });
    const { port } = listener.addr;
    using near = await Deno.connect({ hostname, port });
    using far = await listener.accept();
    const addresses = kernelAddresses(hostname);
    const fits = (socket: { remoteAddress: string; remotePort: number }) =>
      socket.remotePort === port && addresses.includes(socket.remoteAddress);
    const found = await listSockets(Deno.pid, fits);
    assertEquals(
      found.map(({ localPort, state }) => [localPort, state]),
      [[near.localAddr.port, TCP_ESTABLISHED]],
    );
    const reading = far.read(new Uint8Array(1));
    assertEquals(await borrowSockets(Deno.pid, { fits, use: (socket) => socket.abort() }), true);
    // A reset, and no orderly end after which unsent data would still come.
    await assertRejects(() => reading, Deno.errors.ConnectionReset);
    await assertRejects(() => near.write(new Uint8Array(1)), Error);
    assertEquals(await listSockets(Deno.pid, fits), []);
    // None is left: nothing can be borrowed.
    assertEquals(await borrowSockets(Deno.pid, { fits, use: () => true }), false);
  });
}

Deno.test("one that listens can be made to stop, and is held until its owner closes it", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  using waiting = await Deno.connect({ port });
  using accepted = await listener.accept();
  const found = new Map<string, boolean>();
  const each = (use: (socket: ServerSocket) => void) =>
    borrowServerSockets(Deno.pid, (socket) => {
      if (socket.localPort === port) use(socket);
    });
  each(({ id, listens }) => found.set(id, listens));
  assertEquals([...found.values()].toSorted(), [false, true]);
  each((socket) => socket.listens && socket.stopListening());
  each(({ listens }) => assertEquals(listens, false));
  await assertRejects(() => Deno.connect({ port }), Deno.errors.ConnectionRefused);
  // A connection that was accepted is no part of it.
  await accepted.write(Uint8Array.of(7));
  assertEquals(await waiting.read(new Uint8Array(1)), 1);
  const held = () => heldSockets(Deno.pid, new Set(found.keys())).length;
  assertEquals(held(), 2);
  listener.close();
  assertEquals(held(), 1);
});
