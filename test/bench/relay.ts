// What the wire costs: GB/s from a unix socket through two sessions over loopback TCP to a unix
// socket, against the same path with plain copies in place of the sessions, in one run. Four
// processes each time, as in a migration: QEMU, sender, receiver, QEMU.
//
//   deno run -A test/bench/relay.ts [MIB] [ROUNDS] [--tls]
//
// With --tls also the sessions over TLS against the sessions without. Prints one
// line per round and the ratio of the medians. The last line is JSON.

import { derivedPublicKey, makeDerivedCertificate } from "../../src/link/certificate.ts";
import { ownIdentity, startTls, trustKey } from "../../src/link/tls.ts";
import { acceptTls } from "../../src/link/tls_server.ts";
import { type ByteLink, type Duplex, writeAll } from "../../src/wire/byte_link.ts";
import { relay } from "../../src/wire/relay.ts";
import { Session } from "../../src/wire/session.ts";

type Way = "plain" | "session" | "tls";

const CHUNK_BYTES = 256 * 1024;
/** Both ends derive the certificate's key from it. */
const SECRET = new Uint8Array(32).fill(1);
const never = new AbortController().signal;

/** Process 1: writes `mib` into the unix socket. */
async function produce(path: string, mib: number): Promise<void> {
  using conn = await Deno.connect({ transport: "unix", path });
  const chunk = crypto.getRandomValues(new Uint8Array(65536));
  for (let sent = 0; sent < mib * 16; sent++) await writeAll(conn, chunk);
  await conn.closeWrite();
  while (await conn.read(chunk) !== null);
}

/** Process 4: reads all and prints when it began and ended. */
async function consume(path: string): Promise<void> {
  using listener = Deno.listen({ transport: "unix", path });
  console.log("ready");
  using conn = await listener.accept();
  const buffer = new Uint8Array(CHUNK_BYTES);
  let total = await conn.read(buffer) ?? 0;
  const beganMs = performance.now();
  for (let count = await conn.read(buffer); count !== null; count = await conn.read(buffer)) {
    total += count;
  }
  const seconds = (performance.now() - beganMs) / 1000;
  await conn.closeWrite();
  console.log(JSON.stringify({ total, seconds }));
}

/** Process 2: unix socket in, TCP out. */
async function send(way: Way, path: string, port: number): Promise<void> {
  using listener = Deno.listen({ transport: "unix", path });
  const tcp = await Deno.connect({ hostname: "127.0.0.1", port });
  tcp.setNoDelay(true);
  console.log("ready");
  using unix = await listener.accept();
  const trust = trustKey(derivedPublicKey(SECRET));
  const link = way === "tls" ? await startTls(tcp, { trust, signal: never }) : tcp;
  await join(way, unix, link, "initiator");
}

/** Process 3: TCP in, unix socket out. */
async function receive(way: Way, path: string): Promise<void> {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  console.log(listener.addr.port);
  const tcp = await listener.accept();
  tcp.setNoDelay(true);
  using unix = await Deno.connect({ transport: "unix", path });
  const identity = ownIdentity(await makeDerivedCertificate(SECRET));
  const link = way === "tls" ? await acceptTls(tcp, { identity, signal: never }) : tcp;
  await join(way, unix, link, "responder");
}

async function join(
  way: Way,
  unix: Deno.UnixConn,
  link: ByteLink,
  role: "initiator" | "responder",
): Promise<void> {
  if (way === "plain") {
    await Promise.all([copy(unix, link), copy(link, unix)]);
    link.close();
  } else {
    const session = new Session(link, { role });
    const stream = role === "initiator"
      ? session.openStream("ram")
      : await session.acceptStream("ram", never);
    await relay(unix, stream, { signal: never });
    if (role === "initiator") await session.goAway("done", "benchmark");
    else await session.done;
  }
  const { user, system } = cpuSeconds();
  console.log(JSON.stringify({ cpuSeconds: user + system }));
}

function cpuSeconds(): { user: number; system: number } {
  const fields = Deno.readTextFileSync("/proc/self/stat").split(") ")[1]!.split(" ");
  return { user: Number(fields[11]) / 100, system: Number(fields[12]) / 100 };
}

async function copy(from: Duplex, to: Duplex): Promise<void> {
  const buffer = new Uint8Array(CHUNK_BYTES);
  for (let count = await from.read(buffer); count !== null; count = await from.read(buffer)) {
    await writeAll(to, buffer.subarray(0, count));
  }
  await to.closeWrite();
}

/** A process of this script, and the lines that it prints. */
function start(...args: string[]): { line(): Promise<string>; ended(): Promise<void> } {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", "--quiet", import.meta.filename!, ...args],
    stdout: "piped",
  }).spawn();
  const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  const line = async (): Promise<string> => {
    while (!text.includes("\n")) {
      const { value, done } = await reader.read();
      if (done) throw new Error(`'${args.join(" ")}' ended early`);
      text += value;
    }
    const end = text.indexOf("\n");
    const result = text.slice(0, end);
    text = text.slice(end + 1);
    return result;
  };
  const ended = async () => {
    await reader.cancel();
    const { code } = await child.status;
    if (code !== 0) throw new Error(`'${args.join(" ")}' ended with ${code}`);
  };
  return { line, ended };
}

interface Result {
  gbPerSecond: number;
  senderCpuPerGb: number;
  receiverCpuPerGb: number;
}

async function measure(way: Way, mib: number): Promise<Result> {
  const dir = await Deno.makeTempDir({ prefix: "relay-bench-" });
  try {
    const consumer = start("consume", `${dir}/out`);
    await consumer.line();
    const receiver = start("receive", way, `${dir}/out`);
    const port = await receiver.line();
    const sender = start("send", way, `${dir}/in`, port);
    await sender.line();
    const producer = start("produce", `${dir}/in`, String(mib));
    const { total, seconds } = JSON.parse(await consumer.line());
    if (total !== mib * 2 ** 20) throw new Error(`${total} bytes arrived instead of ${mib} MiB`);
    const gb = total / 1e9;
    const senderCpu = JSON.parse(await sender.line()).cpuSeconds;
    const receiverCpu = JSON.parse(await receiver.line()).cpuSeconds;
    await Promise.all([producer, sender, receiver, consumer].map((process) => process.ended()));
    return {
      gbPerSecond: gb / seconds,
      senderCpuPerGb: senderCpu / gb,
      receiverCpuPerGb: receiverCpu / gb,
    };
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

function median(values: number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!;
}

async function compare(mib: number, rounds: number, ways: readonly Way[]): Promise<void> {
  const speeds: { [W in Way]: number[] } = { plain: [], session: [], tls: [] };
  for (let round = 1; round <= rounds; round++) {
    for (const way of ways) {
      const result = await measure(way, mib);
      speeds[way].push(result.gbPerSecond);
      console.log(
        `round ${round} ${way.padEnd(7)} ${result.gbPerSecond.toFixed(2)} GB/s, CPU s/GB: ` +
          `sender ${result.senderCpuPerGb.toFixed(2)}, receiver ${
            result.receiverCpuPerGb.toFixed(2)
          }`,
      );
    }
  }
  const speed = (way: Way) => Number(median(speeds[way]).toFixed(3));
  const ratio = (way: Way, to: Way) =>
    Number((median(speeds[way]) / median(speeds[to])).toFixed(3));
  console.log(JSON.stringify({
    bench: "relay",
    mib,
    rounds,
    plain_gb_per_s: speed("plain"),
    session_gb_per_s: speed("session"),
    ratio: ratio("session", "plain"),
    ...(ways.includes("tls")
      ? { tls_gb_per_s: speed("tls"), tls_ratio: ratio("tls", "session") }
      : {}),
  }));
}

const [first = "1024", ...rest] = Deno.args;
switch (first) {
  case "produce":
    await produce(rest[0]!, Number(rest[1]));
    break;
  case "consume":
    await consume(rest[0]!);
    break;
  case "send":
    await send(rest[0] as Way, rest[1]!, Number(rest[2]));
    break;
  case "receive":
    await receive(rest[0] as Way, rest[1]!);
    break;
  default: {
    const [mib = "1024", rounds = "3"] = Deno.args.filter((arg) => arg !== "--tls");
    const ways: Way[] = ["plain", "session"];
    await compare(
      Number(mib),
      Number(rounds),
      Deno.args.includes("--tls") ? [...ways, "tls"] : ways,
    );
  }
}
