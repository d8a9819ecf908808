// The three printers, each fed one event of every type and what is special to it.

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import * as v from "valibot";
import { AgentError } from "../../../src/base/errors.ts";
import { accountText } from "../../../src/cli/account_text.ts";
import { accountOfError } from "../../../src/migration/account.ts";
import { errorText } from "../../../src/cli/error_text.ts";
import { LineSchema } from "../../lib/event_schema.ts";
import { JsonPrinter } from "../../../src/cli/json_printer.ts";
import { type Outputs, QueuedOutputs } from "../../../src/cli/output.ts";
import { barText, TerminalPrinter } from "../../../src/cli/terminal_printer.ts";
import { TextPrinter } from "../../../src/cli/text_printer.ts";
import { eventOf, SAMPLES } from "./sample_events.ts";

class MemoryOutputs implements Outputs {
  stdout = "";
  stderr = "";
  closed = false;
  out(text: string): void {
    this.stdout += text;
  }
  err(text: string): void {
    this.stderr += text;
  }
  close(): Promise<void> {
    this.closed = true;
    return Promise.resolve();
  }
  get lines(): string[] {
    return this.stdout.split("\n").slice(0, -1);
  }
}

function makeError(): AgentError {
  const error = new AgentError("disk_create_failed", "Cannot create '/d/a.raw':\n3 GiB free", {
    side: "destination",
    phase: "params",
    hint: "make room",
  });
  error.undoErrors.push(new AgentError("unlink_failed", "Cannot remove '/d/b.raw'"));
  return error;
}

const FAILED = {
  ...SAMPLES.account,
  outcome: "failed" as const,
  owner: "source" as const,
  error: accountOfError(makeError()),
};

Deno.test("the error text: what, where, when; then the hint; then what is left behind", () => {
  assertEquals(
    errorText(accountOfError(makeError())),
    "migrate-agent: on the destination, phase params: Cannot create '/d/a.raw': 3 GiB free\n" +
      "  hint: make room\n" +
      "  not undone: Cannot remove '/d/b.raw'\n",
  );
  const bare = new AgentError("x", "Unknown option '--a'", { kind: "usage" });
  assertEquals(errorText(accountOfError(bare)), "migrate-agent: Unknown option '--a'\n");
});

Deno.test("the account says first where the guest is", () => {
  const account = SAMPLES.account;
  assertMatch(accountText(account), /^Completed: guest 'vm1' runs at the destination\.\n/);
  assertMatch(accountText(FAILED), /^Failed: guest 'vm1' runs on at the source\.\n/);
  assertMatch(
    accountText({ ...FAILED, running: false }),
    /^Failed: guest 'vm1' is paused at the source\.\n/,
  );
  // It ended before a guest was looked at.
  assertMatch(accountText({ ...FAILED, guest: "" }), /^Failed: nothing was changed\.\n/);
  assertMatch(
    accountText({ ...account, outcome: "uncertain", owner: null, running: false }),
    /^Uncertain: guest 'vm1' is paused, and which host may run it is not known\.\n/,
  );
  for (
    const part of ["12.0 s", "212 ms", "mirroring the disks", "256 MiB sent", "1.00 GiB copied"]
  ) assertStringIncludes(accountText(account), part);
});

Deno.test("JSON: every line satisfies the schema, errors too, and nothing else is printed", async () => {
  const outputs = new MemoryOutputs();
  const printer = new JsonPrinter(outputs);
  const bodies = [...Object.values(SAMPLES), FAILED];
  for (const body of bodies) printer.event(eventOf(body));
  printer.error(makeError());
  await printer.close();
  const types = outputs.lines.map((line) => v.parse(LineSchema, JSON.parse(line)).type);
  assertEquals(types, [...bodies.map((body) => body.type), "error"] as typeof types);
  assertEquals(outputs.stderr, "");
  assert(outputs.closed);
});

Deno.test("text: a line per event with its time, the account at the end", async () => {
  const outputs = new MemoryOutputs();
  const printer = new TextPrinter(outputs);
  for (const body of Object.values(SAMPLES)) printer.event(eventOf(body));
  await printer.close();
  const { lines } = outputs;
  assertEquals(
    lines[0],
    "2025-03-01T12:00:00.000Z source [6f1c2f0e] listening on [::1]:4444, process 12",
  );
  const text = outputs.stdout;
  assertStringIncludes(text, "phase mirror: mirroring the disks\n");
  assertStringIncludes(text, "disk hd0: 25 %, 256 MiB of 1.00 GiB, 256 MiB/s, 3 s left\n");
  assertStringIncludes(text, "memory: 75 %, pass 2, 128 MiB sent, 64.0 MiB/s, 1 s left");
  assertStringIncludes(text, "warning: slow \\u001b[31mdisk\n");
  assert(text.endsWith(accountText(SAMPLES.account)));
  assertEquals(outputs.stderr, "");
});

Deno.test("text: progress is thinned out to every 10 s or 10 %, per disk", () => {
  const outputs = new MemoryOutputs();
  const printer = new TextPrinter(outputs);
  const show = (disk: string, percent: number, atMs: number, ready = false) => {
    const body = { ...SAMPLES.disk_progress, disk, done_bytes: percent, total_bytes: 100, ready };
    printer.event(eventOf(body, atMs));
    return outputs.lines.length;
  };
  assertEquals(show("a", 0, 0), 1); // the first
  assertEquals(show("a", 9, 9_999), 1);
  assertEquals(show("b", 0, 9_999), 2); // another disk
  assertEquals(show("a", 9, 10_000), 3); // 10 s
  assertEquals(show("a", 19, 10_001), 4); // 10 %
  assertEquals(show("a", 28, 10_002), 4);
  assertEquals(show("a", 28, 10_003, true), 5); // in sync
  assertEquals(show("a", 28, 10_004, true), 5);
});

Deno.test("text: errors go to standard error", () => {
  const outputs = new MemoryOutputs();
  const printer = new TextPrinter(outputs);
  printer.error(makeError());
  printer.event(eventOf(FAILED));
  assertEquals(outputs.stderr, errorText(FAILED.error).repeat(2));
  assertEquals(outputs.stdout, accountText(FAILED));
});

const HIDE = "\x1b[?25l";
const SHOW = "\x1b[?25h";

function makeTerminal(columns = 80, rows = 24) {
  const outputs = new MemoryOutputs();
  return { outputs, printer: new TerminalPrinter(outputs, { size: () => ({ columns, rows }) }) };
}

Deno.test("terminal: bars, lines above them, the account on standard output", async () => {
  const { outputs, printer } = makeTerminal();
  for (const body of Object.values(SAMPLES)) printer.event(eventOf(body));
  await printer.close();
  const drawn = outputs.stderr;
  assertStringIncludes(drawn, "phase mirror: mirroring the disks\n");
  assertMatch(drawn, /disk hd0 +█+░+ +25 % +256 MiB\/s, 3 s left/);
  assertMatch(drawn, /memory +█+░+ +75 % +64\.0 MiB\/s, 1 s left, pass 2/);
  // It came while the bars were there and was waiting for the next drawing.
  assertStringIncludes(drawn, "warning: slow \\u001b[31mdisk\x1b[K\n");
  assertEquals(outputs.stdout, accountText(SAMPLES.account));
});

Deno.test("terminal: the cursor is given back, however it ends", async () => {
  const ends: ((printer: TerminalPrinter) => unknown)[] = [
    (printer) => printer.close(),
    (printer) => printer.error(makeError()),
    (printer) => printer.event(eventOf(FAILED)),
    (printer) => printer.event({ ...eventOf(SAMPLES.phase), phase: "switchover" }),
  ];
  for (const end of ends) {
    const { outputs, printer } = makeTerminal();
    printer.event(eventOf(SAMPLES.disk_progress));
    assertStringIncludes(outputs.stderr, HIDE);
    await end(printer);
    assert(outputs.stderr.lastIndexOf(SHOW) > outputs.stderr.lastIndexOf(HIDE));
    await printer.close();
  }
});

Deno.test("terminal: a long line above the bars is broken, not cut", async () => {
  const { outputs, printer } = makeTerminal(20);
  printer.event(eventOf(SAMPLES.disk_progress));
  printer.event(eventOf({ ...SAMPLES.warning, text: "0123456789abcdefghijkl" }));
  await printer.close();
  assertStringIncludes(outputs.stderr, "warning: 0123456789\x1b[K\nabcdefghijkl\x1b[K\n");
});

Deno.test("terminal: no more bars than rows, and the memory's bar has its place", async () => {
  const { outputs, printer } = makeTerminal(80, 6);
  for (const disk of ["a", "b", "c", "d", "e"]) {
    printer.event(eventOf({ ...SAMPLES.disk_progress, disk }));
  }
  printer.event(eventOf(SAMPLES.ram_progress));
  await printer.close();
  const drawn = outputs.stderr;
  for (const shown of ["disk a", "disk b", "disk c", "memory"]) assertStringIncludes(drawn, shown);
  assert(!drawn.includes("disk d") && !drawn.includes("disk e"));
});

Deno.test("terminal: a bar fits every width and keeps the percent longest", () => {
  const state = { value: 25, total: 100, progress: 0.25 };
  for (const label of ["memory", "disk a-very-long-name-of-a-disk-that-never-ends"]) {
    const payload = { label, pace: "100 MiB/s, 59 min 59 s left" };
    for (let maxWidth = 1; maxWidth <= 200; maxWidth++) {
      const text = barText({ ...state, maxWidth }, payload);
      assert(text.length < maxWidth, `${maxWidth}: ${text}`);
      if (maxWidth > 6) assertStringIncludes(text, "25 %");
      if (maxWidth > 120) assertStringIncludes(text, "█".repeat(10) + "░".repeat(30));
      if (maxWidth > 80) assertStringIncludes(text, payload.pace);
    }
  }
});

Deno.test("outputs: short writes are completed, in the order of both, and close waits", async () => {
  let screen = "";
  const target = {
    write(bytes: Uint8Array) {
      screen += new TextDecoder().decode(bytes.subarray(0, 2));
      return Promise.resolve(Math.min(2, bytes.length));
    },
  };
  // A second object on the same screen, as standard output and standard error are on a terminal.
  const outputs = new QueuedOutputs({ out: target, err: { write: target.write } });
  outputs.err("hello ");
  outputs.out("wide ");
  outputs.err("world\n");
  await outputs.close();
  assertEquals(screen, "hello wide world\n");
});

Deno.test("outputs: a reader that is gone is no failure, and the other one goes on", async () => {
  let tries = 0;
  let errors = "";
  const outputs = new QueuedOutputs({
    out: {
      write() {
        tries++;
        return Promise.reject(new Deno.errors.BrokenPipe("Broken pipe"));
      },
    },
    err: {
      write(bytes) {
        errors += new TextDecoder().decode(bytes);
        return Promise.resolve(bytes.length);
      },
    },
  });
  outputs.out("a");
  outputs.out("b");
  outputs.err("c");
  await outputs.close();
  outputs.out("d");
  assertEquals([tries, errors], [1, "c"]);
});
