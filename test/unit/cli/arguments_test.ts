import { assertEquals, assertMatch, assertThrows } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import { parseCommandLine } from "../../../src/cli/arguments.ts";
import { COMMANDS } from "../../../src/cli/command_table.ts";
import type { Surroundings } from "../../../src/cli/option_spec.ts";
import { FAULT_POINTS } from "../../../src/migration/steps.ts";

const ROOT: Surroundings = {
  cwd: "/home/op",
  uid: 0,
  runtimeDir: null,
  stateHome: null,
  home: "/root",
};

/** Splits at blanks: the tests need no quoting. */
function parse(line: string, around = ROOT) {
  return parseCommandLine(line === "" ? [] : line.split(" "), around);
}

function refusal(line: string | string[], around?: Surroundings): string {
  const args = typeof line === "string" ? line.split(" ") : line;
  const error = assertThrows(() => parseCommandLine(args, around ?? ROOT), AgentError);
  assertEquals(error.kind, "usage");
  assertMatch(error.message, /^[^\n]+$/);
  return error.message;
}

Deno.test("send: every option, in both spellings", () => {
  const expected = {
    command: "send",
    connection: { by: "insecure", to: { host: "10.0.0.2", port: 4444 } },
    guest: { qmp: "/run/a/qmp.sock" },
    qemuPid: 77,
    copyStorage: true,
    disks: ["a", "b"],
    excludeDisks: [],
    diskBandwidth: 100 * 1024 * 1024,
    ramBandwidth: 5000,
    downtimeLimitMs: 300,
    autoConverge: true,
    timeoutMs: 600_000,
    peerTimeoutMs: 1500,
    reconnectMs: 60_000,
    handoverTimeoutMs: 120_000,
    stateDir: "/home/op/s",
    fault: { point: FAULT_POINTS[0], action: "hold" },
    sourceAfter: "paused",
    nbd: "tunnel",
    insecureNbd: true,
    json: true,
  };
  assertEquals<unknown>(
    parse(
      "send --to 10.0.0.2:4444 --qmp unix:/run/a/qmp.sock --qemu-pid 77 -q --disks a,b " +
        "--disk-bandwidth 100M --ram-bandwidth 5000 --downtime-limit 300ms --auto-converge " +
        "--peer-timeout 1500ms --reconnect 60s --handover-timeout 2m --state-dir s " +
        `--fail-at ${FAULT_POINTS[0]}:hold ` +
        "--timeout 10m --source-after paused --insecure --nbd tunnel --insecure-nbd --json",
    ),
    expected,
  );
  assertEquals<unknown>(
    parse(
      "send --to=10.0.0.2:4444 --qmp=/run/a/qmp.sock --qemu-pid=77 --copy-storage --disks=a,b " +
        "--disk-bandwidth=100m --ram-bandwidth=5000 --downtime-limit=300ms --auto-converge " +
        "--peer-timeout=1500ms --reconnect=1m --handover-timeout=120s --state-dir=/home/op/s/ " +
        `--fail-at=${FAULT_POINTS[0]}:hold ` +
        "--timeout=600s --source-after=paused --insecure --nbd=tunnel --insecure-nbd --json",
    ),
    expected,
  );
});

Deno.test("send: what is not given", () => {
  assertEquals<unknown>(parse("send --to localhost:1 --qmp ./q"), {
    command: "send",
    connection: { by: "ticket", to: { host: "localhost", port: 1 }, file: null, tlsCa: null },
    guest: { qmp: "/home/op/q" },
    qemuPid: null,
    copyStorage: false,
    disks: null,
    excludeDisks: [],
    diskBandwidth: null,
    ramBandwidth: null,
    downtimeLimitMs: null,
    autoConverge: false,
    timeoutMs: null,
    peerTimeoutMs: 3000,
    reconnectMs: 0,
    handoverTimeoutMs: 60_000,
    stateDir: "/var/lib/migrate-agent",
    fault: null,
    sourceAfter: "quit",
    nbd: "direct",
    insecureNbd: false,
    json: false,
  });
});

Deno.test("receive: every option", () => {
  assertEquals<unknown>(
    parse(
      "receive --listen [2001:db8::1]:0 --insecure --insecure-nbd --qemu ./qemu --qemu /opt/q --qmp q.sock " +
        "--run-dir /run/x/ --disk-dir disks --disk hd0=a=b.raw --disk b.raw=/b --path-map /a/=b " +
        "--allow-dir c --allow-dir /d --allow-bridge br0 --allow-vnc --override netdev.n0.ifname=tap7 " +
        "--override netdev.n0.script= --nbd-host 10.0.0.9 --nbd-ports 5000-5009 --reuse-disks " +
        "--once --json --detach --log l --peer-timeout 10s --state-dir /s " +
        `--fail-at ${FAULT_POINTS.at(-1)}`,
    ),
    {
      command: "receive",
      listen: { host: "2001:db8::1", port: 0 },
      stdio: false,
      insecure: true,
      ticketFile: null,
      showTicket: false,
      ticketForMs: 3_600_000,
      advertise: null,
      secretFile: null,
      tls: null,
      insecureNbd: true,
      adoptQmp: null,
      launchCommand: null,
      qemuBinaries: ["/home/op/qemu", "/opt/q"],
      qmp: "/home/op/q.sock",
      runDir: "/run/x",
      diskDir: "/home/op/disks",
      diskPaths: [{ name: "hd0", path: "/home/op/a=b.raw" }, { name: "b.raw", path: "/b" }],
      pathMaps: [{ from: "/a", to: "/home/op/b" }],
      allowDirs: ["/home/op/c", "/d"],
      bridges: ["br0"],
      allowVnc: true,
      overrides: [{ key: "netdev.n0.ifname", value: "tap7" }, {
        key: "netdev.n0.script",
        value: "",
      }],
      nbdHost: "10.0.0.9",
      nbdPorts: { first: 5000, last: 5009 },
      reuseDisks: true,
      serve: false,
      json: true,
      detach: true,
      log: "/home/op/l",
      peerTimeoutMs: 10_000,
      stateDir: "/s",
      fault: { point: FAULT_POINTS.at(-1), action: "error" },
    },
  );
});

Deno.test("receive: what is not given, and where the run folder is", () => {
  assertEquals<unknown>(parse("receive"), {
    command: "receive",
    listen: { host: "127.0.0.1", port: 0 },
    stdio: false,
    insecure: false,
    ticketFile: null,
    showTicket: false,
    ticketForMs: 3_600_000,
    advertise: null,
    secretFile: null,
    tls: null,
    insecureNbd: false,
    adoptQmp: null,
    launchCommand: null,
    qemuBinaries: [],
    qmp: null,
    runDir: "/run/migrate-agent",
    diskDir: null,
    diskPaths: [],
    pathMaps: [],
    allowDirs: [],
    bridges: [],
    allowVnc: false,
    overrides: [],
    nbdHost: null,
    nbdPorts: null,
    reuseDisks: false,
    serve: false,
    json: false,
    detach: false,
    log: null,
    peerTimeoutMs: 3000,
    stateDir: "/var/lib/migrate-agent",
    fault: null,
  });
  const user = { ...ROOT, cwd: "/", uid: 1000, runtimeDir: "/run/user/1000" };
  const received = parse("receive --adopt-qmp q", user);
  assertEquals(
    received.command === "receive" && [received.runDir, received.adoptQmp],
    ["/run/user/1000/migrate-agent", "/q"],
  );
  assertMatch(refusal("receive", { ...user, runtimeDir: null }), /--run-dir FOLDER/);
});

Deno.test("the small commands", () => {
  assertEquals<unknown>(parse("demo"), { command: "demo" });
  assertEquals<unknown>(parse("completions zsh"), { command: "completions", shell: "zsh" });
  assertEquals<unknown>(parse("help"), { command: "help", topic: null });
  assertEquals<unknown>(parse("help send"), { command: "help", topic: "send" });
  assertEquals<unknown>(parse("--help"), { command: "help", topic: null });
  assertEquals<unknown>(parse("-V"), { command: "version" });
  for (const { name } of COMMANDS) {
    // Help is given whatever else is wrong.
    assertEquals<unknown>(parse(`${name} --bogus --help`), { command: "help", topic: name });
  }
});

const REFUSALS: [line: string, message: string][] = [
  ["receive --lisen 127.0.0.1:0", "Unknown option '--lisen' for receive: did you mean '--listen'?"],
  ["receive --lisen=x", "Unknown option '--lisen' for receive: did you mean '--listen'?"],
  ["receive --detac", "Unknown option '--detac' for receive: did you mean '--detach'?"],
  ["send --copy", "Unknown option '--copy' for send: did you mean '--copy-storage'?"],
  ["send -disks", "Unknown option '-disks' for send: did you mean '--disks'?"],
  ["send --xyzzy", "Unknown option '--xyzzy' for send"],
  ["send --__proto__=1", "Unknown option '--__proto__' for send"],
  ["send --to.host=1", "Unknown option '--to.host' for send"],
  ["send --no-json", "Unknown option '--no-json' for send"],
  ["send -z", "Unknown option '-z' for send"],
  ["send --listen 127.0.0.1:0", "Unknown option '--listen' for send: it belongs to receive"],
  ["sned --to x", "Unknown command 'sned': did you mean 'send'?"],
  [
    "frobnicate",
    "Unknown command 'frobnicate': there are receive, send, status, resolve, cancel, set, demo, completions, help",
  ],
  [
    "--json send",
    "Option '--json' comes before the command: begin with one of receive, send, status, resolve, cancel, set, demo, completions, help",
  ],
  ["help sendd", "Unknown COMMAND 'sendd' for help: did you mean 'send'?"],
  ["completions", "No SHELL given for completions: give bash or zsh"],
  ["completions fishy", "Unknown SHELL 'fishy' for completions: give one of bash, zsh"],
  ["help send receive", "Unexpected argument 'receive' for help: it takes one COMMAND"],
  [
    "demo 5",
    "Unexpected argument '5' for demo: it takes options alone, which begin with '--'",
  ],
  [
    "demo -- --json",
    "Unexpected argument '--json' for demo: it takes options alone, which begin with '--'",
  ],
  ["send --to h:1", "No guest is named for send: give --qmp SOCKET, or --xen DOMAIN"],
  [
    "send --to h:1 --xen g --qmp q",
    "Options '--xen' and '--qmp' exclude each other: give one of them",
  ],
  ["send --qmp q --via telnet:h", "--via 'telnet:h' is no way: give ssh:[USER@]HOST[:PORT]"],
  [
    "send --qmp q --via ssh:-oProxyCommand=x",
    "--via 'ssh:-oProxyCommand=x' is no way: give ssh:[USER@]HOST[:PORT]",
  ],
  ["receive --serve", "--serve needs --secret-file: a ticket is for one guest"],
  ["send --to h:1", "No guest is named for send: give --qmp SOCKET, or --xen DOMAIN"],
  [
    "send --to h:1 --qmp",
    "Option '--qmp' needs a value: give --qmp SOCKET (as --qmp=SOCKET when it begins with '-')",
  ],
  [
    "send --to --qmp q",
    "Option '--to' needs a value: give --to HOST:PORT (as --to=HOST:PORT when it begins with '-')",
  ],
  [
    "send --qmp= --to h:1",
    "Option '--qmp' needs a value: give --qmp SOCKET (as --qmp=SOCKET when it begins with '-')",
  ],
  ["send --to a:1 --to=b:2", "Option '--to' is given 2 times ('a:1', 'b:2'): give it once"],
  [
    "send --json=no",
    "Option '--json' takes no value, but 'no' was given: leave the value out",
  ],
  [
    "send --json false",
    "Option '--json' takes no value, but 'false' was given: leave the value out",
  ],
  ["send -q=1", "Option '-q' takes no value, but '1' was given: leave the value out"],
  [
    "send --to ::1:5 --qmp q --disks a",
    "Option '--disks' has no effect without '--copy-storage': give both or neither",
  ],
  [
    "send --to h:1 --qmp q --exclude-disks a",
    "Option '--exclude-disks' has no effect without '--copy-storage': give both or neither",
  ],
  [
    "send --to h:1 --qmp q -q --disks a --exclude-disks b",
    "Options '--disks' and '--exclude-disks' exclude each other: give one of them",
  ],
  [
    "receive --adopt-qmp a --serve",
    "Options '--adopt-qmp' and '--serve' exclude each other: give one of them",
  ],
  [
    "receive --adopt-qmp a --qmp b",
    "Options '--adopt-qmp' and '--qmp' exclude each other: give one of them",
  ],
  [
    "receive --launch-command a --adopt-qmp b",
    "Options '--adopt-qmp' and '--launch-command' exclude each other: give one of them",
  ],
  [
    "receive --launch-command a --qemu /b",
    "Options '--launch-command' and '--qemu' exclude each other: give one of them",
  ],
  [
    "receive --once --serve",
    "Options '--once' and '--serve' exclude each other: give one of them",
  ],
  [
    "receive --log l",
    "Option '--log' has no effect without '--detach': give both or neither",
  ],
  ["receive --disk a=/1 --disk a=/2", "--disk 'a' is given twice: give it once"],
  [
    "receive --override a.b.c=1 --override a.b.c=2",
    "--override 'a.b.c' is given twice: give it once",
  ],
  [
    "receive --launch-command a --qmp /b",
    "Options '--launch-command' and '--qmp' exclude each other: give one of them",
  ],
  [
    "send --to 127.0.0.1:1 --qmp q --source-after stop",
    "--source-after 'stop' is not known: give quit or paused",
  ],
];

for (const [line, message] of REFUSALS) {
  Deno.test(`refused: ${line}`, () => assertEquals(refusal(line), message));
}

Deno.test("refused: no command at all, an empty value", () => {
  assertMatch(refusal([]), /^No command given: give one of receive, send, /);
  assertMatch(refusal(["send", "--qmp", "", "--to", "h:1"]), /^Option '--qmp' needs a value/);
});

Deno.test("send: the ways to the receiver", () => {
  const ways: [string, Record<string, unknown>][] = [
    ["--ticket-file t", { by: "ticket", to: null, file: "/home/op/t", tlsCa: null }],
    ["--ticket-file - --tls-ca ca.pem", {
      by: "ticket",
      to: null,
      file: "-",
      tlsCa: "/home/op/ca.pem",
    }],
    ["--secret-file s --to h:1", {
      by: "secret",
      to: { host: "h", port: 1 },
      secretFile: "/home/op/s",
      tlsCa: null,
    }],
    ["--via ssh:root@h:2222 --via-options=--disk-dir=/d --ssh-config c", {
      by: "ssh",
      target: "root@h:2222",
      program: "migrate-agent",
      options: "--disk-dir=/d",
      config: "/home/op/c",
    }],
  ];
  for (const [words, connection] of ways) {
    const parsed = parse(`send --qmp q ${words}`);
    assertEquals<unknown>(parsed.command === "send" && parsed.connection, connection);
  }
});

Deno.test("the examples in the help are commands that work", () => {
  for (const { examples } of COMMANDS) {
    for (const { line } of examples) {
      const match = /^(?:source <\()?migrate-agent ([^|>)]*)/.exec(line)!;
      parse(match[1]!.trim());
    }
  }
});
