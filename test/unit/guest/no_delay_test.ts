// TCP_NODELAY on this very process's sockets: what the kernel then does with it is not tested here.

import { assertEquals } from "@std/assert";
import { setNoDelay } from "../../../src/guest/no_delay.ts";

for (const hostname of ["127.0.0.1", "::1"]) {
  Deno.test(`a listening socket at ${hostname} is found by its port`, async () => {
    using listener = Deno.listen({ hostname, port: 0 });
    assertEquals(await setNoDelay(Deno.pid, listener.addr.port), true);
  });
}

Deno.test("a port on which nobody listens: false", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  listener.close();
  assertEquals(await setNoDelay(Deno.pid, port), false);
});

Deno.test("a process that is not there: false", async () => {
  assertEquals(await setNoDelay(2 ** 22 + 1, 1), false); // above Linux's highest process id
});
