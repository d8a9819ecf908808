// A guest that does as it is told: it waits for a key, and at once panics, switches itself off or
// reboots. For what a guest may do of its own will while it is moved.

import { type ImageOptions, makeImage } from "../lib/disks.ts";
import type { TestVm } from "../lib/vm.ts";

/** What its keys do. */
const KEYS = { panic: "p", shutdown: "s", reboot: "r" } as const;

/** QEMU's options for a machine in which it can do all of that; its disk comes besides. */
export const RESTLESS_ARGS: readonly string[] = ["-device", "pvpanic"];

/** The PC boot sector, with its source. It counts keys where the tiny guest counts turns. */
const PROGRAM = [
  "31c0", // xor ax, ax
  "8ed8", // mov ds, ax
  "66c706045000000000", // mov dword [0x5004], 0
  "66c70600504d414731", // mov dword [0x5000], "MAG1"
  "66ff060450", // next: inc dword [0x5004]
  "b400cd16", // a key, by the BIOS: mov ah, 0; int 0x16
  "ba05053c707413", // mov dx, 0x505; cmp al, 'p'; je panic
  "ba04063c737411", // mov dx, 0x604; cmp al, 's'; je off
  "baf90c3c7275e2", // mov dx, 0xcf9; cmp al, 'r'; jne next
  "b006eeebdd", // the chip set's reset register: mov al, 6; out dx, al; jmp next
  "b001eeebd8", // panic: mov al, 1; out dx, al; jmp next
  "b80020efebd2", // off, to ACPI's state S5: mov ax, 0x2000; out dx, ax; jmp next
].join("");

/** Makes the disk from which it boots. */
export async function makeRestlessDisk(
  path: string,
  options: Omit<ImageOptions, "content" | "backing">,
): Promise<void> {
  const content = new Uint8Array(512);
  content.set(Uint8Array.fromHex(PROGRAM));
  content.set([0x55, 0xaa], 510);
  await makeImage(path, { ...options, content });
}

/** Presses the key. What follows is told by QEMU's events. */
export async function tell(
  vm: TestVm,
  what: keyof typeof KEYS,
  signal: AbortSignal,
): Promise<void> {
  const keys = [{ type: "qcode", data: KEYS[what] }];
  await vm.monitor.execute("send-key", { keys }, { signal });
}
