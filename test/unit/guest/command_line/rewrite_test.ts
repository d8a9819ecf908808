// What becomes of every option but disks.

import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { AgentError } from "../../../../src/base/errors.ts";
import { OPTION_TABLE } from "../../../../src/guest/command_line/option_table.ts";
import {
  HANDLERS,
  listDeviceIds,
  rewriteCommandLine,
} from "../../../../src/guest/command_line/rewrite.ts";
import { change, makeParams, makeSettings, OWN, refusal, rewrite, words } from "./fixtures.ts";

Deno.test("every option that is checked or replaced has somebody who does it", () => {
  const disks = words("drive blockdev hda hdb hdc hdd cdrom fda fdb pflash sd mtdblock");
  for (const { name, treatment } of OPTION_TABLE.values()) {
    const expected = ["check", "replace"].includes(treatment) && !disks.includes(name);
    assertEquals(HANDLERS.has(name), expected, name);
  }
});

Deno.test("what says nothing about the host stays, in order", () => {
  const kept = words(
    "-name g,debug-threads=on -accel tcg -accel kvm -m 1G,slots=2,maxmem=2G -smp 2,sockets=2 " +
      "-cpu host,+x -rtc base=utc -nodefaults -no-user-config -global kvm-pit.lost_tick_policy=x " +
      "-device virtio-scsi-pci,id=s0,bus=pcie.0,addr=0x5 -device usb-tablet -object iothread,id=i0 " +
      "-boot order=c,strict=on -k en-us -usb -vga std -no-reboot -msg timestamp=on -no-hpet " +
      "-object memory-backend-ram,id=ram,size=1G -numa node,memdev=ram -smbios type=1,serial=a/b " +
      "-fw_cfg name=opt/x,string=y -netdev user,id=n -device e1000,netdev=n,romfile= -net none " +
      "-chardev null,id=c -serial chardev:c -parallel none -object rng-random,id=r,filename=/dev/urandom",
  );
  assertEquals(change(kept), kept);
  const json = ["-device", '{"driver":"nvme","serial":"x","id":"n0","bus":"pcie.0"}'];
  assertEquals(change(json), json);
});

Deno.test("what belongs to the source's process goes", () => {
  assertEquals(
    change(words(
      "--daemonize -S -incoming tcp:0:1 -pidfile /x -D /x -d int -loadvm s -runas u -chroot /x " +
        "-qmp unix:/x,server -qmp-pretty stdio -monitor stdio -s -gdb tcp::1 -trace file=/x -curses " +
        "-chardev socket,id=m,path=/x,server=on -mon chardev=m,mode=control -run-with user=x " +
        "-display gtk -display curses -vnc :1",
    )),
    [],
  );
});

Deno.test("options are replaced", () => {
  const cases: [string, string][] = [
    ["-nographic", "-machine graphics=off"],
    ["-serial stdio", "-serial null"],
    ["-serial mon:stdio", "-serial null"],
    ["-serial vc:80Cx24C", "-serial vc:80Cx24C"],
    ["-serial unix:/x,server,nowait", "-serial unix:/run/m/serial_0.sock,server,wait=off"],
    ["-serial null -serial file:/x/y", "-serial null -serial file:/run/m/serial_1.log"],
    ["-serial file:/src/log", "-serial file:/dst/log"],
    ["-chardev stdio,id=c,signal=off,mux=on", "-chardev null,id=c,mux=on"],
    [
      "-chardev socket,id=c,path=/x,server,nowait",
      "-chardev socket,id=c,path=/run/m/chardev_c.sock,server,wait=off",
    ],
    ["-chardev pty,id=c,logfile=/x", "-chardev pty,id=c,logfile=/run/m/chardev_c_log.log"],
    ["-chardev file,id=c,path=/src/f", "-chardev file,id=c,path=/dst/f"],
    // A character device that something else than a monitor uses stays.
    [
      "-chardev stdio,id=c,mux=on -mon chardev=c -serial chardev:c",
      "-chardev null,id=c,mux=on -serial chardev:c",
    ],
    ["-audiodev pa,id=a,server=x", "-audiodev driver=none,id=a"],
    ["-vnc unix:/x", "-vnc unix:/run/m/vnc.sock"],
    ["-sandbox on,spawn=deny,obsolete=deny", "-sandbox on,obsolete=deny"],
    ["-run-with async-teardown=on,chroot=/x", "-run-with async-teardown=on"],
    ["-kernel /ro/k -initrd /src/i -append a=b,c", "-kernel /ro/k -initrd /dst/i -append a=b,c"],
    ["-bios bios.bin -option-rom r.rom", "-bios bios.bin -option-rom r.rom"],
    ["-bios /ro/b -L /ro", "-bios /ro/b -L /ro"],
    ["-device e1000,romfile=/ro/r", "-device e1000,romfile=/ro/r"],
    [
      "-object memory-backend-file,id=m,mem-path=/src/m",
      "-object memory-backend-file,id=m,mem-path=/dst/m",
    ],
    ["-netdev bridge,id=n,br=br7", "-netdev bridge,id=n,br=br7"],
    [
      "-netdev tap,id=n,ifname=t0,script=no,downscript=no,vhost=on",
      "-netdev tap,id=n,ifname=t0,script=no,downscript=no,vhost=on",
    ],
  ];
  for (const [before, after] of cases) assertEquals(change(words(before)), words(after), before);
});

Deno.test("what opens something of the host, or is not known, is refused with a reason", () => {
  const cases: [string, string][] = [
    ["-whatever", "not one that is known"],
    ["-m", "lacks its value"],
    ["-readconfig /x", "not on the command line"],
    ["-snapshot", "temporary file"],
    ["-set device.x.y=z", "after they are checked"],
    ["-plugin /x", "loads a program"],
    ["-add-fd fd=3,set=1", "open file"],
    ["-qtest unix:/x", "test access"],
    ["-virtfs local,path=/,mount_tag=x,security_model=none", "shares a folder"],
    ["-spice port=1", "ports"],
    ["-netdev tap,id=n0,script=/etc/qemu-ifup", "runs a program of this host"],
    ["-netdev tap,id=n0", "runs a program of this host"],
    ["-netdev tap,id=n0,fd=3", "open file"],
    ["-netdev tap,id=n0,script=no,downscript=no,helper=/x", "'helper'"],
    ["-netdev bridge,id=n0", "'br0'"],
    ["-netdev bridge,id=n0,br=br7,helper=/x", "'helper'"],
    ["-netdev tap,id=n0,br=br7", "runs a program of this host (QEMU's default script)"],
    ["-netdev user,id=n,hostfwd=tcp::1-:1", "opens a port"],
    ["-netdev user,id=n,guestfwd=tcp:1.2.3.4:1-cmd:sh", "guestfwd"],
    ["-netdev user,id=n,smb=/", "smb"],
    ["-nic user,tftp=/", "tftp"],
    ["-netdev vhost-user,id=n,chardev=c", "'vhost-user'"],
    ["-netdev socket,id=n,listen=:1", "'socket'"],
    ["-nic tap", "runs a program"],
    ["-device vfio-pci,host=01:00.0", "PCI device of the host"],
    ["-device usb-host,hostbus=1", "USB device"],
    ["-device virtio-9p-pci,fsdev=f", "service of the host"],
    ["-device loader,file=/etc/shadow", "reads a file"],
    ["-device brand-new", "not known"],
    ["-device e1000,romfile=/etc/shadow", "outside the folders"],
    ["-device e1000,romfile=/ro/../etc/shadow", "outside the folders"],
    ["-device e1000,romfile=/ro/link", "outside the folders"],
    ["-device usb-kbd,pcap=x", "pcap"],
    ["-device e1000,x-new=/etc/x", "names a path"],
    ['-device {"driver":"e1000","romfile":"/etc/x"}', "outside the folders"],
    ["-device {", "not valid JSON"],
    ["-global e1000.romfile=/etc/x", "outside the folders"],
    ["-global usb-kbd.pcap=x", "pcap"],
    ["-global driver=e1000,property=romfile,value=/etc/x", "driver.property"],
    ["-object secret,id=s,data=hunter2", "'secret'"],
    ["-object filter-dump,id=f,netdev=n,file=/x", "'filter-dump'"],
    ["-object rng-random,id=r,filename=/etc/shadow", "reads a file"],
    ["-object memory-backend-file,id=m,mem-path=/etc", "outside the folders"],
    ["-object iothread,id=i,new=1", "'new'"],
    ["-chardev socket,id=c,path=/x", "beside the source's QEMU"],
    ["-chardev socket,id=c,host=h,port=1,server=on", "network connection"],
    ["-chardev socket,id=c,path=/x,server=on,tls-creds=t", "'tls-creds'"],
    ["-chardev pipe,id=c,path=/x", "'pipe'"],
    ["-chardev null,id=c,backend=pipe,path=/x", "'pipe'"],
    ["-chardev null,id=c,id=d", "two ids"],
    ["-serial tcp:h:1", "connects to the host"],
    ["-serial /dev/ttyS0", "connects to the host"],
    ["-serial unix:/x,server=on,logfile=/etc/x", "'logfile'"],
    ["-serial unix:/x,server=on,backend=pipe", "'backend'"],
    ["-tpmdev passthrough,id=t", "TPM"],
    ["-machine dumpdtb=/x", "'dumpdtb'"],
    ["-machine q35,confidential-guest-support=x", "'confidential-guest-support'"],
    ["-machine q35,accel=xen", "'xen'"],
    ["-accel qtest", "'qtest'"],
    ["-accel kvm,device=/x", "'device'"],
    ["-kernel /etc/shadow", "outside the folders"],
    ["-kernel /ro/absent", "not here"],
    ["-kernel vmlinuz", "relative"],
    ["-fw_cfg name=x,file=/etc/shadow", "outside the folders"],
    ["-fw_cfg name=x,gen_id=y", "'gen_id'"],
    ["-smbios type=11,path=/etc/shadow", "outside the folders"],
    ["-acpitable data=/ro/a:/etc/shadow", "outside the folders"],
    ["-boot splash=/etc/shadow", "outside the folders"],
    ["-k ../../x", "keymap"],
    ["-icount rr=record,rrfile=/x", "'rr'"],
    ["-usbdevice host:1.2", "something of the host"],
  ];
  for (const [argv, why] of cases) {
    const error = refusal(words(argv));
    assertStringIncludes(error.message, why, argv);
    assertStringIncludes(error.message, words(argv)[0]!);
    assertEquals(error.code, "option_refused");
  }
});

Deno.test("a message never holds a secret", () => {
  const error = refusal(["-object", "secret,id=s,data=hunter2,,x,format=raw"]);
  assert(!error.message.includes("hunter2"), error.message);
  assertStringIncludes(error.message, "data=…,format=raw");
});

Deno.test("the policy opens what its operator wants", () => {
  const policy = { allowVnc: true, readFolders: ["/etc"] };
  for (
    const argv of [
      "-vnc 127.0.0.1:3,password=on",
      "-kernel /etc/k",
    ]
  ) assertEquals(change(words(argv), { policy }), words(argv));
  // Its protection does not come along: no display rather than an open one.
  assertEquals(change(["-vnc", ":3,tls-creds=t"], { policy }), []);
});

Deno.test("overrides set parts, legitimise them, and must fit", () => {
  const cases: [string, Record<string, string>, string][] = [
    [
      "-netdev tap,id=n.0,script=no,downscript=no,ifname=a",
      { "netdev.n.0.ifname": "tap7" },
      "-netdev tap,id=n.0,script=no,downscript=no,ifname=tap7",
    ],
    [
      "-netdev tap,id=n,fd=5,vhost=on,vhostfd=6",
      {
        "netdev.n.fd": "",
        "netdev.n.vhostfd": "",
        "netdev.n.ifname": "t",
        "netdev.n.script": "/ok",
        "netdev.n.downscript": "no",
      },
      "-netdev tap,id=n,vhost=on,ifname=t,script=/ok,downscript=no",
    ],
    ["-chardev socket,id=c,path=/x", { "chardev.c.path": "/y" }, "-chardev socket,id=c,path=/y"],
    [
      "-device vfio-pci,id=d,host=1",
      { "device.d.driver": "e1000", "device.d.host": "" },
      "-device e1000,id=d",
    ],
  ];
  for (const [argv, overrides, after] of cases) {
    const policy = { overrides: new Map(Object.entries(overrides)) };
    assertEquals(change(words(argv), { policy }), words(after), argv);
  }
  for (const name of ["netdev.n1.ifname", "netdev.n", "drive.n.file", "n", "netdev.n."]) {
    const policy = { overrides: new Map([[name, "x"]]) };
    const error = refusal(words("-netdev user,id=n"), { policy });
    assertEquals(error.code, "override_unmatched", name);
  }
});

Deno.test("the machine type is the one that runs, also when none was named", () => {
  const own = (argv: string[], machine?: string) =>
    rewrite(argv, machine ? { machine } : {}).argv.slice(0, -OWN.length);
  assertEquals(own(["-M", "pc,accel=kvm:tcg,usb=off"], "pc-i440fx-7.2"), [
    "-machine",
    "pc-i440fx-7.2,accel=kvm:tcg,usb=off",
  ]);
  assertEquals(own(["-m", "1G"]), ["-machine", "pc-q35-7.2", "-m", "1G"]);
  assertEquals(own(["-nographic"]), ["-machine", "pc-q35-7.2", "-machine", "graphics=off"]);
  for (const machine of ["none", "x-remote", "xenfv", "pc-q35-7.2,dumpdtb=/x", "virt-7.2"]) {
    assertThrows(() => rewrite(["-m", "1G"], { machine }), AgentError, "not a machine");
  }
  assertThrows(() => rewrite([]), AgentError, "could not be read");
});

Deno.test("ids of devices are found on any command line", () => {
  const argv = words("-brand-new --device e1000,id=a -device nvme,serial=id=x -device edu -device");
  assertEquals([...listDeviceIds([...argv, '{"driver":"nvme", "id" : "b"}'])], ["a", "b"]);
});

Deno.test("sockets get names of their own, no longer than the kernel takes", () => {
  const { files } = rewrite(words(
    "-chardev socket,id=a.b,path=/x,server=on -chardev socket,id=a/b,path=/x,server=on",
  ));
  assertEquals(files.map(({ path }) => path), [
    "/run/m/chardev_a_b.sock",
    "/run/m/chardev_a_b-2.sock",
  ]);
  const params = makeParams(["-vnc", "unix:/x"]);
  const settings = makeSettings([], { settings: { runDir: "/" + "r".repeat(100) } });
  assertThrows(() => rewriteCommandLine(params, settings), AgentError, "too long");
});
