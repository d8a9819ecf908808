// Command lines: what the receiver would start for a peer's params, judged by argv_oracle.ts.

import type { DestinationSettings } from "../../../src/guest/command_line/destination.ts";
import { parseOptions, toArgv } from "../../../src/guest/command_line/options.ts";
import { rewriteCommandLine } from "../../../src/guest/command_line/rewrite.ts";
import { type Disk, parseParams, type QemuParams } from "../../../src/guest/params.ts";
import { type Bounds, checkArgv } from "../argv_oracle.ts";
import { PARAMS } from "../corpus.ts";
import { mutateText } from "../mutate_json.ts";
import type { Random } from "../random.ts";
import { checkProse, holds, type Target } from "../target.ts";
import { makeJson, mutateArgument } from "./keyval.ts";

interface Input {
  argv: string[];
  machine: string;
  disks: Disk[];
  allowVnc: boolean;
}

/** What a hostile peer would try, in options and in parts of them. */
const HOSTILE_OPTIONS = `
  -chardev pipe,id=p,path=/etc/x|-chardev socket,id=s,host=h,port=1|-serial tcp:h:1|-serial pipe:/x
  -chardev file,id=f,path=/etc/shadow|-chardev null,id=n,logfile=/etc/x|-serial exec:sh
  -netdev tap,id=t,script=/bin/sh|-netdev tap,id=t,br=br7|-nic tap|-net tap,script=no
  -netdev user,id=u,guestfwd=tcp:10.0.2.9:1-cmd:sh|-netdev bridge,id=b,helper=/bin/sh
  -netdev user,id=u,smb=/|-nic user,hostfwd=tcp::1-:1|-netdev tap,id=t,fd=3
  -plugin /tmp/x.so|-object secret,id=s,file=/etc/shadow|-object memory-backend-file,id=m,mem-path=/etc
  -device loader,file=/etc/shadow|-device vfio-pci,host=1|-device VGA,romfile=/etc/shadow
  -global VGA.romfile=/etc/shadow|-kernel /etc/shadow|-bios /ro/link|-kernel /ro/../etc/shadow
  -smbios file=/etc/shadow|-acpitable file=/ro/a:/etc/shadow|-fw_cfg name=opt/a,file=/etc/shadow
  -blockdev driver=file,node-name=x,filename=/etc/shadow|-blockdev driver=blkdebug,node-name=x,config=/x
  -drive file=/etc/shadow,format=raw,if=none,id=x|-drive file=json:{},if=none,id=y|-hda nbd://h/x
  -incoming exec:sh|-qmp stdio|-readconfig /x|-daemonize|-S|-monitor tcp::1|-gdb tcp::1|-D /etc/x
  -vnc :1|-vnc unix:/etc/x|-display vnc=:1,tls-creds=x|-machine q35,dumpdtb=/x|-M pc,firmware=/etc/x
  -tpmdev passthrough,id=t,path=/dev/tpm0|-fsdev local,id=f,path=/|-virtfs local,path=/|-add-fd fd=3
  -object throttle-group,id=tg,limits.iops-total=1|-boot splash=/etc/shadow|-L /etc|-mem-path /etc
  -hda /src/a.raw|-cdrom /src/cd.iso|-pflash /src/vars.fd|-sd /src/a.raw|-usbdevice disk:/etc/shadow
`.trim().split(/[|\n]/).map((text) => text.trim().split(" ") as [string, string?]);
const HOSTILE_PARTS = [
  ...[
    "path=/etc/shadow",
    "script=/bin/sh",
    "file=/etc/shadow",
    "filename=/etc/shadow",
    "server=off",
  ],
  ...["file.filename=/etc/shadow", "file.driver=nbd", "backing.file.filename=/etc/shadow"],
  ...["backing=x", "driver=nbd", "format=vvfat", "host=h", "fd=3", "backend=pipe", "type=tap"],
  ...[
    "romfile=/etc/shadow",
    "splash=/etc/x",
    "br=br0",
    "helper=/x",
    "node-name=x",
    "read-only=off",
  ],
  ...["file.node-name=x", "data-file.filename=/etc/x", "mem-path=/etc", "logfile=/etc/x", "id=x"],
];
const ALL_OPTIONS = PARAMS.flatMap(({ qemu }) => pairUp(qemu.argv));
const RUN = "/run/m";
const OWN = [
  ...["-display", "none", "-qmp", "unix:/run/m/qmp.sock,server=on,wait=off"],
  ...["-pidfile", "/run/m/pid", "-S", "-incoming", "defer", "-daemonize"],
];

export const COMMAND_LINE_TARGET: Target<Input> = {
  name: "command_line",
  share: 30,
  make(random) {
    const params = random.pick(PARAMS);
    const options = pairUp(params.qemu.argv);
    for (let i = random.few(4); i > 0; i--) mutateOptions(random, options);
    const argv = options.flat().filter((word) => word !== undefined);
    if (random.oneIn(50)) argv.splice(random.below(argv.length), 1);
    const disks = params.disks.map((disk) => ({ ...disk }));
    if (random.oneIn(2)) mutateDisks(random, disks, argv);
    return { argv, machine: params.machine, disks, allowVnc: random.oneIn(4) };
  },
  run({ argv, machine, disks, allowVnc }) {
    const base = PARAMS[0]!;
    // First the check that everything from the peer passes.
    const params = parseParams(
      JSON.stringify({ ...base, machine, disks, qemu: { ...base.qemu, argv } }),
    ) as QemuParams;
    const settings = makeSettings(params, allowVnc);
    const { argv: result, warnings } = rewriteCommandLine(params, settings);
    for (const warning of warnings) checkProse(warning, "a warning");
    checkArgv(result, makeBounds(params, settings));
    const again = toArgv(parseOptions(result));
    const [before, after] = [result, again].map((argv) => argv.join("\n"));
    holds(before === after, () => `${before} was read as ${after}`);
  },
};

function pairUp(argv: readonly string[]): [string, string?][] {
  const options: [string, string?][] = [];
  for (const word of argv) {
    const last = options.at(-1);
    if (last?.length === 1 && !word.startsWith("-")) last.push(word);
    else options.push([word]);
  }
  return options;
}

function mutateOptions(random: Random, options: [string, string?][]): void {
  if (options.length === 0) options.push(random.pick(ALL_OPTIONS));
  const at = random.below(options.length);
  const [name, value] = options[at]!;
  switch (random.below(9)) {
    case 0:
      options.splice(at, 1);
      break;
    case 1:
      options.splice(at, 0, random.pick(HOSTILE_OPTIONS));
      break;
    case 2:
      options.splice(at, 0, random.pick(ALL_OPTIONS));
      break;
    case 3: {
      const other = random.below(options.length);
      [options[at], options[other]] = [options[other]!, options[at]!];
      break;
    }
    case 4:
      if (value !== undefined) options[at] = [random.pick(ALL_OPTIONS)[0], value];
      break;
    default:
      if (value !== undefined) options[at] = [name, mutateValue(random, value)];
  }
}

function mutateValue(random: Random, value: string): string {
  if (value.startsWith("{")) return mutateJsonValue(random, value);
  const parts = value.split(",");
  switch (random.below(4)) {
    case 0:
      parts.splice(random.below(parts.length + 1), 0, random.pick(HOSTILE_PARTS));
      return parts.join(",");
    case 1:
      return value.replace(/(node-name|id)=[^,]*/, `$1=${pickWord(random, value)}`);
    case 2:
      return mutateText(random, value);
    default:
      return mutateArgument(random, value);
  }
}

/** A part put in or set, most often where QEMU looks for one. */
function mutateJsonValue(random: Random, text: string): string {
  if (random.oneIn(4)) return makeJson(random);
  let tree: Record<string, unknown>;
  try {
    tree = JSON.parse(text);
  } catch {
    return text; // mutated before
  }
  const [key, value] = random.pick(HOSTILE_PARTS).split("=") as [string, string];
  const names = key.split(".");
  let branch = tree;
  for (const name of names.slice(0, -1)) {
    const next = branch[name];
    const isBranch = typeof next === "object" && next !== null;
    branch = (isBranch ? next : (branch[name] = {})) as Record<string, unknown>;
  }
  branch[names.at(-1)!] = random.oneIn(3) ? pickWord(random, text) : value;
  return JSON.stringify(tree);
}

function mutateDisks(random: Random, disks: Disk[], argv: readonly string[]): void {
  const donor = random.pick(random.pick(PARAMS).disks);
  if (disks.length === 0 || random.oneIn(6)) disks.push({ ...donor });
  const disk = random.pick(disks);
  const word = () => random.oneIn(4) ? random.pick(["x", "d0", ""]) : pickWord(random, argv.join());
  switch (random.below(9)) {
    case 0:
      disk.node_name = word();
      break;
    case 1:
      disk.device = word();
      break;
    case 2:
      disk.qdev = word();
      break;
    case 3:
      disk.name = word();
      break;
    case 4:
      disk.action = random.pick(["mirror", "shared", "present", "empty"]);
      if (disk.action === "present") disk.read_only = true;
      break;
    case 5:
      disk.format = random.pick(["raw", "qcow2", "luks", "nbd", "vvfat", "blkdebug", "file", ""]);
      break;
    case 6:
      disk.removable = !disk.removable;
      break;
    case 7:
      disk.read_only = !disk.read_only;
      break;
    default:
      disks.splice(disks.indexOf(disk), 1);
  }
}

function pickWord(random: Random, text: string): string {
  return random.pick(text.match(/[\w.-]+/g) ?? ["x"]);
}

function makeSettings(params: QemuParams, allowVnc: boolean): DestinationSettings {
  return {
    qmpPath: `${RUN}/qmp.sock`,
    pidFile: `${RUN}/pid`,
    logFile: null,
    runDir: RUN,
    // By name, as the receiver keeps them.
    disks: new Map(params.disks.map((disk, at) => [disk.name, targetOf(disk, at)])),
    pathFor: (path) => path.startsWith("/src/") ? `/dst/${path.slice(5)}` : null,
    realPath,
    policy: {
      readFolders: ["/ro", "/usr/share/seabios"],
      writeFolders: ["/dst"],
      bridges: ["br7"],
      allowVnc,
      overrides: new Map(),
    },
  };
}

function targetOf({ action, removable }: Disk, at: number) {
  if (action === "empty" || (removable && at % 3 === 2)) return null;
  return { path: action === "present" ? `/ro/${at}` : `/dst/${at}`, protocol: "file" as const };
}

function makeBounds(
  { disks }: QemuParams,
  { policy, disks: targets }: DestinationSettings,
): Bounds {
  const { readFolders, writeFolders, bridges, allowVnc } = policy;
  const readOnly = disks.filter(({ read_only }) => read_only).flatMap(({ name }) =>
    targets.get(name)?.path ?? []
  );
  return {
    readFolders,
    writeFolders: [...writeFolders, RUN],
    bridges,
    allowVnc,
    readOnlyImages: new Set(readOnly),
    realPath,
    own: OWN,
  };
}

/** Everything is there but what is called absent; two links lead out. */
function realPath(path: string): string | null {
  if (path.includes("absent") || !path.startsWith("/")) return null;
  const done: string[] = [];
  for (const name of path.split("/")) {
    if (name === "..") done.pop();
    else if (name !== "" && name !== ".") done.push(name);
    if (done.length === 2 && done[0] === "ro" && done[1] === "link") {
      done.splice(0, 2, "etc", "shadow");
    }
    if (done.length === 2 && done[0] === "dst" && done[1] === "out") done.splice(0, 2, "etc");
  }
  return "/" + done.join("/");
}
