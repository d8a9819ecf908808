// TCP_NODELAY on this very process's sockets: what the kernel then does with it is not tested here.

import { assertEquals } from "@std/assert";
import { setNoDelay } from "../../../src/base/no_delay.ts";

for (const hostname of ["127.0.0.1", "::1"]) {
  Deno.test(`a listening socket at ${hostname} is found by its port`, async () => {
    using listener = Deno.listen({ hostname, port: 0 });
    assertEquals(
      await setNoDelay({ pid: Deno.pid, localPort: listener.addr.port, remotePort: null }),
      true,
    );
  });
}

Deno.test("a port on which nobody listens: false", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  listener.close();
  assertEquals(await setNoDelay({ pid: Deno.pid, localPort: port, remotePort: null }), false);
});

Deno.test("a process that is not there: false", async () => {
  assertEquals(await setNoDelay({ pid: 2 ** 22 + 1, localPort: 1, remotePort: null }), false); // above Linux's highest process id
});

Deno.test("both ends of a connection are found by their ports", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  using near = await Deno.connect({ hostname: "127.0.0.1", port: listener.addr.port });
  using far = await listener.accept();
  for (const { localAddr, remoteAddr } of [near, far]) {
    const socket = { pid: Deno.pid, localPort: localAddr.port, remotePort: remoteAddr.port };
    assertEquals(await setNoDelay(socket), true);
  }
});
