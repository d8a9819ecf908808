// What a receiver takes over of a configuration that comes from the other host: what xl 4.17 gave for a
// small domain passes with this host's disks; what could name a program or a file is refused by name.

import { assertEquals, assertThrows } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import type { TargetDisk } from "../../../src/guest/destination.ts";
import { buildConfig, isDomainName, listBridges } from "../../../src/xen/domain_config.ts";
import { makeDisk } from "../guest/command_line/fixtures.ts";

type Json = Record<string, unknown>;

const DISK = {
  pdev_path: "/srv/there/g1.img",
  vdev: "hda",
  backend: "qdisk",
  format: "raw",
  readwrite: 1,
  colo_restore_enable: "False",
};
const CDROM = { ...DISK, pdev_path: "/srv/there/cd.iso", vdev: "hdc", readwrite: 0, is_cdrom: 1 };
const NIC = { devid: 0, mac: "00:16:3e:01:02:03", bridge: "br0", script: "vif-bridge" };

/** `xl list -l`, with `changes` to the parts that they name. */
function makeConfig(changes: { create?: Json; build?: Json; hvm?: Json; rest?: Json } = {}): Json {
  return {
    c_info: {
      type: "hvm",
      name: "g1",
      domid: 4294967295,
      uuid: "4ebcdfd9-cf1f-4bd3-a747-9f3089cff86e",
      run_hotplug_scripts: "True",
      ...changes.create,
    },
    b_info: {
      max_vcpus: 1,
      avail_vcpus: [0],
      max_memkb: 32768,
      target_memkb: 32768,
      sched_params: { sched: "credit2", weight: 256, cap: 0 },
      claim_mode: "True",
      "type.hvm": {
        vga: { kind: "none" },
        vnc: { enable: "False" },
        sdl: {},
        serial: "pty",
        boot: "c",
        xen_platform_pci: "False",
        rdm: {},
        ...changes.hvm,
      },
      arch_x86: { msr_relaxed: "False" },
      ...changes.build,
    },
    disks: [DISK, CDROM],
    on_crash: "preserve",
    ...changes.rest,
  };
}

const TARGETS: TargetDisk[] = [
  {
    disk: makeDisk({ name: "hda", format: "qcow2" }),
    path: "/srv/here/g1.qcow2",
    protocol: "file",
    create: true,
    note: null,
  },
  {
    disk: makeDisk({ name: "hdc", action: "present", read_only: true, removable: true }),
    path: null,
    protocol: "file",
    create: false,
    note: "left out",
  },
];

function build(config: Json, openDisplays = true): Json {
  return JSON.parse(buildConfig(config, { name: "g1", targets: TARGETS, openDisplays }));
}

Deno.test("config: everything stays but the disks, which are this host's", () => {
  const { disks, ...rest } = build(makeConfig());
  const { disks: _, ...expected } = makeConfig();
  assertEquals<Json>(rest, { ...expected, nics: [], vfbs: [] });
  const { colo_restore_enable: _colo, ...disk } = DISK;
  const { colo_restore_enable: _colo2, ...cdrom } = CDROM;
  assertEquals(disks, [
    { ...disk, pdev_path: "/srv/here/g1.qcow2", format: "qcow2" },
    { ...cdrom, pdev_path: "", format: "empty" },
  ]);
});

Deno.test("config: a network on a bridge stays, and its bridge is known", () => {
  const config = makeConfig({ rest: { nics: [NIC] } });
  assertEquals(build(config).nics, [NIC]);
  assertEquals(listBridges(config), ["br0"]);
  assertEquals(listBridges(makeConfig({ rest: { nics: [{ devid: 0 }] } })), ["xenbr0"]);
  assertEquals(listBridges(makeConfig()), []);
});

Deno.test("config: displays are for this host alone unless they are allowed to be more", () => {
  const vnc = { enable: "True", listen: "0.0.0.0", passwd: "secret" };
  const config = makeConfig({ hvm: { vnc }, rest: { vfbs: [{ devid: 0, vnc }] } });
  for (const [open, listen] of [[true, "0.0.0.0"], [false, "127.0.0.1"]] as const) {
    const { b_info, vfbs } = build(config, open) as { b_info: Json; vfbs: Json[] };
    assertEquals((b_info["type.hvm"] as Json).vnc, { ...vnc, listen });
    assertEquals(vfbs[0]?.vnc, { ...vnc, listen });
  }
});

const REFUSED: [what: string, changes: Parameters<typeof makeConfig>[0], where: string][] = [
  ["a program of its own as device model", {
    build: { device_model: "/tmp/evil" },
  }, "b_info.device_model"],
  ["arguments for QEMU", { build: { extra: ["-chardev"] } }, "b_info.extra"],
  ["arguments for QEMU of this kind", { build: { extra_hvm: ["-monitor"] } }, "b_info.extra_hvm"],
  ["a kernel from a file", { build: { kernel: "/etc/shadow" } }, "b_info.kernel"],
  ["a boot loader", { build: { bootloader: "/bin/sh" } }, "b_info.bootloader"],
  ["firmware from a file", {
    hvm: { system_firmware: "/etc/shadow" },
  }, "b_info.type.hvm.system_firmware"],
  ["a serial port into a file", { hvm: { serial: "file:/etc/passwd" } }, "b_info.type.hvm.serial"],
  ["an option of QEMU behind a comma", { hvm: { boot: "c,x=y" } }, "b_info.type.hvm.boot"],
  ["a paravirtualized guest", { create: { type: "pv" } }, "c_info.type"],
  ["another name", { create: { name: "dom0-backup" } }, "c_info.name"],
  ["a device of this host", { rest: { pcidevs: [{ bus: 1 }] } }, "pcidevs"],
  ["a script for a network", {
    rest: { nics: [{ ...NIC, script: "/tmp/x" }] },
  }, "nics[0].script"],
  ["a script for a disk", { rest: { disks: [{ ...DISK, script: "/tmp/x" }] } }, "disks[0].script"],
  ["a disk that was not named before", {
    rest: { disks: [{ ...DISK, vdev: "hdb" }] },
  }, "disks[0].vdev"],
  ["a medium that could be written to", {
    rest: { disks: [DISK, { ...CDROM, readwrite: 1 }] },
  }, "disks[1].readwrite"],
  ["lists that are none", { rest: { disks: "hda" } }, "disks"],
];

for (const [what, changes, where] of REFUSED) {
  Deno.test(`config refused: ${what}`, () => {
    const error = assertThrows(() => build(makeConfig(changes)), AgentError, `'${where}'`);
    assertEquals([error.code, error.kind], ["config_refused", "refused"]);
  });
}

Deno.test("config: names that xl would take for something else are none", () => {
  for (const name of ["g1", "web-1.example_org", "a+b"]) {
    assertEquals(isDomainName(name), true, name);
  }
  for (const name of ["", "7", "-c", "a b", "a/b", "g1--incoming", "g1--migratedaway", "a\n"]) {
    assertEquals(isDomainName(name), false, name);
  }
});
