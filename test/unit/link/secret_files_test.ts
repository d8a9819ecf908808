import { assert, assertEquals, assertNotEquals, assertRejects } from "@std/assert";
import { AgentError } from "../../../src/base/errors.ts";
import {
  readSecretFile,
  readTicket,
  TICKET_VARIABLE,
  writeTicketFile,
} from "../../../src/link/secret_files.ts";
import { encodeTicket, type Ticket } from "../../../src/link/ticket.ts";
import { requires } from "../../lib/requires.ts";
import { TempDir } from "../../lib/temp.ts";
import { never, SECRET } from "./fixture.ts";

const TICKET: Ticket = {
  address: { host: "h", port: 1 },
  server: { kind: "authority" },
  secret: SECRET,
  expiresAtMs: 1,
  migrationId: "m",
};
const TEXT = encodeTicket(TICKET);

function source(text = "", variables: Record<string, string> = {}) {
  const env = new Map(Object.entries(variables));
  let rest = new TextEncoder().encode(text);
  const stdin = {
    read(p: Uint8Array): Promise<number | null> {
      const count = Math.min(rest.length, p.length, 7);
      p.set(rest.subarray(0, count));
      rest = rest.subarray(count);
      return Promise.resolve(count || null);
    },
  };
  return { file: null, stdin, env, signal: never };
}

async function refusal(work: () => Promise<unknown>): Promise<string> {
  const error = await assertRejects(work, AgentError);
  assert(!`${error.message}${error.hint}`.includes(TEXT.slice(5, 20)));
  return error.code;
}

Deno.test("a ticket comes from the file, else from the environment, else from nowhere", async () => {
  await using temp = await TempDir.create();
  const file = temp.file("ticket");
  await writeTicketFile(file, TEXT);
  assertEquals((await Deno.stat(file)).mode! & 0o777, 0o600);
  assertEquals(await readTicket({ ...source(), file }), TICKET);
  assertEquals(await readTicket({ ...source(` ${TEXT}\n`), file: "-" }), TICKET);
  const other = source("", { [TICKET_VARIABLE]: TEXT });
  assertEquals(await readTicket(other), TICKET);
  assertEquals(other.env.size, 0, "child processes would inherit it");
  assertEquals(await readTicket(source()), null);
  const both = source("", { [TICKET_VARIABLE]: "x" });
  assertEquals(await readTicket({ ...both, file }), TICKET);
});

Deno.test("what is no ticket, or too long, is refused", async () => {
  await using temp = await TempDir.create();
  assertEquals(await refusal(() => readTicket({ ...source("x"), file: "-" })), "bad_ticket");
  const long = source("m".repeat(100_000));
  assertEquals(await refusal(() => readTicket({ ...long, file: "-" })), "cannot_read_secret");
  const variable = source("", { [TICKET_VARIABLE]: TEXT + "x" });
  assertEquals(await refusal(() => readTicket(variable)), "bad_ticket");
  for (const file of [temp.file("none"), temp.path]) {
    assertEquals(await refusal(() => readTicket({ ...source(), file })), "cannot_read_secret");
  }
});

Deno.test("a file that others can read or change is not used", async () => {
  await using temp = await TempDir.create();
  const file = temp.file("ticket");
  await writeTicketFile(file, TEXT);
  const cases: [number, boolean][] = [
    [0o600, true],
    [0o400, true],
    [0o640, true],
    [0o644, false],
    [0o660, false],
    [0o601, false],
  ];
  for (const [mode, good] of cases) {
    await Deno.chmod(file, mode);
    if (good) assertEquals(await readTicket({ ...source(), file }), TICKET);
    else {
      assertEquals(await refusal(() => readTicket({ ...source(), file })), "secret_file_open");
    }
  }
});

Deno.test({
  name: "a file of another user is not used, except root's",
  ...requires("root"),
  async fn() {
    await using temp = await TempDir.create();
    const file = temp.file("ticket");
    await writeTicketFile(file, TEXT);
    await Deno.chown(file, 65534, 65534);
    assertEquals(await refusal(() => readTicket({ ...source(), file })), "secret_file_open");
  },
});

Deno.test("a ticket replaces what was there, whole, and never through a link", async () => {
  await using temp = await TempDir.create();
  const [file, target] = [temp.file("ticket"), temp.file("target")];
  await Deno.writeTextFile(target, "mine");
  await Deno.symlink(target, file);
  await writeTicketFile(file, TEXT);
  assertEquals(await Deno.readTextFile(target), "mine");
  assertEquals(await Deno.readTextFile(file), TEXT + "\n");
  const nowhere = `${temp.path}/none/ticket`;
  assertEquals(await refusal(() => writeTicketFile(nowhere, TEXT)), "cannot_write_ticket");
  await Deno.mkdir(temp.file("folder"));
  const folder = temp.file("folder");
  assertEquals(await refusal(() => writeTicketFile(folder, TEXT)), "cannot_write_ticket");
  const names = (await Array.fromAsync(Deno.readDir(temp.path))).map(({ name }) => name);
  assertEquals(names.sort(), ["folder", "target", "ticket"], "something was left behind");
});

Deno.test("a secret file gives the same secret whatever follows its last character", async () => {
  await using temp = await TempDir.create();
  const file = temp.file("secret");
  const write = (text: string | Uint8Array) =>
    Deno.writeFile(file, typeof text === "string" ? new TextEncoder().encode(text) : text, {
      mode: 0o600,
    });
  const text = crypto.getRandomValues(new Uint8Array(32)).toBase64();
  await write(text);
  const secret = await readSecretFile(file, never);
  assertEquals(secret.length, 32);
  await write(text + "\r\n");
  assertEquals(await readSecretFile(file, never), secret);
  await write(text.replace(/=$/, ""));
  assertNotEquals(await readSecretFile(file, never), secret);
  await write(crypto.getRandomValues(new Uint8Array(32)).toHex());
  await readSecretFile(file, never);
  // 32 random bytes that happen to end like a line are a secret as they are.
  const bytes = Uint8Array.from({ length: 32 }, (_, i) => 7 * i + 0x80);
  bytes[31] = 0x0a;
  await write(bytes);
  await readSecretFile(file, never);
  for (const weak of ["", "short", "a".repeat(64), "password".repeat(5), text.slice(0, 31)]) {
    await write(weak);
    assertEquals(await refusal(() => readSecretFile(file, never)), "weak_secret");
  }
  await write("x".repeat(5000));
  assertEquals(await refusal(() => readSecretFile(file, never)), "cannot_read_secret");
});
