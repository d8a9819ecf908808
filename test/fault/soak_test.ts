// A few rounds of the soak (soak.ts), always the same ones: that it runs, and that its bookkeeping of
// a receiver which lives on holds.

import { assertEquals } from "@std/assert";
import { requires } from "../lib/requires.ts";
import { soak } from "./soak.ts";

/** Of the first rounds that it plans, each is quick, and no two have the same fault. */
const SEED = 15309;
const ROUNDS = 5;

Deno.test({
  name: "a guest moves to and fro under faults: nothing is lost, doubled or leaked",
  ...requires("qemu-system-x86_64", "qemu-img", "ip", "setpriv", "root"),
  fn: async () => {
    const said: string[] = [];
    const say = (line: string) => void said.push(line);
    assertEquals(await soak({ rounds: ROUNDS, seed: SEED, say }), [], said.join("\n"));
  },
});
