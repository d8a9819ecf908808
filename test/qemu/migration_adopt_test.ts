// Destinations whose QEMU somebody else starts: adopted with `-incoming defer`, or started by the
// operator's own command.

import { assertEquals } from "@std/assert";
import { makeImage } from "../lib/disks.ts";
import { attach, failToMove, formatOf, makeBootDisk, move, startGuest } from "../lib/moving.ts";
import { requires } from "../lib/requires.ts";
import { TestSite } from "../lib/site.ts";
import { TempDir } from "../lib/temp.ts";
import { TestVm } from "../lib/vm.ts";

const SIZES = { "boot.raw": 8 * 2 ** 20, "data.qcow2": 9 * 2 ** 20 };
const NAMES = Object.keys(SIZES) as (keyof typeof SIZES)[];
const limit = () => AbortSignal.timeout(60_000);

async function startSource(temp: TempDir, signal: AbortSignal): Promise<TestVm> {
  const paths = NAMES.map((name) => temp.file(name));
  await makeBootDisk(paths[0]!, { sizeBytes: SIZES["boot.raw"], signal });
  await makeImage(paths[1]!, { format: "qcow2", sizeBytes: SIZES["data.qcow2"], signal });
  return await startGuest(["-name", "guest", ...attach(...paths)], { signal });
}

Deno.test({
  name: "migration into an adopted QEMU",
  ...requires("qemu-system-x86_64", "qemu-img"),
  async fn(t) {
    const signal = limit();
    await using temp = await TempDir.create();
    await using other = await TempDir.create(); // of whoever starts the destination's QEMU
    await using site = await TestSite.create();
    await using source = await startSource(temp, signal);
    for (const name of NAMES) {
      const image = { format: formatOf(name), sizeBytes: SIZES[name], signal };
      await makeImage(other.file(name), image);
    }
    const machine = attach(...NAMES.map((name) => other.file(name)));
    const waiting = ["-S", "-incoming", "defer", "-m", "64", ...machine];
    const UNFIT: Record<string, string[]> = {
      "less memory": [...waiting, "-m", "32"],
      "another machine type": [...waiting, "-M", "q35"],
      "more processors": [...waiting, "-smp", "2"],
      "a disk too few": ["-S", "-incoming", "defer", "-m", "64", ...attach(other.file("boot.raw"))],
      "a QEMU that does not wait": ["-S", "-m", "64", ...machine],
    };
    for (const [name, args] of Object.entries(UNFIT)) {
      await t.step(`refused: ${name}`, async () => {
        await using destination = await TestVm.start(args, { signal });
        await failToMove(site, {
          source,
          receive: ["--adopt-qmp", destination.qmpPath],
          codes: { sender: 3, receiver: 3 },
          error: "qemu_does_not_fit",
          signal,
        });
        await destination.runState(signal); // it is still there: it is not this program's
      });
    }
    await t.step("one that fits", async () => {
      await using destination = await TestVm.start(waiting, { signal });
      const receive = ["--adopt-qmp", destination.qmpPath];
      await using moved = await move(site, { source, receive, signal });
      assertEquals(moved.sender.account!.pid, destination.pid);
      assertEquals(moved.sender.account!.qmp, destination.qmpPath);
    });
  },
});

// What an operator's own command may look like: all that it needs is on its standard input.
const COMMAND = `input=$(cat)
folder=$1
disk() { echo "$input" | jq -er ".disks[$1] | \\"file=\\(.path),format=\\(.format)\\""; }
memory=$(echo "$input" | jq -er .params.memory_bytes)
qemu-system-x86_64 -accel tcg -display none -nodefaults -daemonize -S -incoming defer \\
  -machine "$(echo "$input" | jq -er .params.machine)" -m $((memory / 1048576)) \\
  -qmp "unix:$folder/command.qmp,server=on,wait=off" \\
  -drive "$(disk 0),if=none,id=d0" -device virtio-blk-pci,drive=d0,id=b0,bootindex=1 \\
  -drive "$(disk 1),if=none,id=d1" -device virtio-blk-pci,drive=d1,id=b1 || exit
printf '{"qmp": "%s"}\\n' "$folder/command.qmp"
`;

Deno.test({
  name: "migration into a QEMU that the operator's command starts",
  ...requires("qemu-system-x86_64", "qemu-img", "jq"),
  async fn(t) {
    const signal = limit();
    await using temp = await TempDir.create();
    await using source = await startSource(temp, signal);
    const FAILING: Record<string, string> = {
      "a command that fails": "cat > /dev/null; exit 7",
      "a command that reads nothing and names nothing": "true",
    };
    for (const [name, command] of Object.entries(FAILING)) {
      await t.step(name, async () => {
        await using site = await TestSite.create();
        await failToMove(site, {
          source,
          receive: ["--launch-command", command],
          codes: { sender: 4, receiver: 4 },
          error: "launch_command_failed",
          signal,
        });
      });
    }
    await t.step("one that works", async () => {
      await using site = await TestSite.create();
      const script = site.file("start-guest");
      await Deno.writeTextFile(script, COMMAND);
      const command = `sh ${script} ${site.run}`;
      await using moved = await move(site, {
        source,
        receive: ["--launch-command", command],
        signal,
      });
      assertEquals(moved.sender.account!.qmp, `${site.run}/command.qmp`);
    });
  },
});
