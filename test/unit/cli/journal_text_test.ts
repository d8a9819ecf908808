import { assertEquals } from "@std/assert";
import type { MigrationAccount, ResolvedLine } from "../../../src/cli/journal_documents.ts";
import { resolvedText, statusText } from "../../../src/cli/journal_text.ts";

const TIME = "2025-03-01T12:00:00.000Z";
const ACCOUNT: MigrationAccount = {
  migration_id: "6f1c2f0e",
  side: "source",
  hypervisor: "qemu",
  guest: "vm\u001b[31m1",
  state: "handover_sent",
  meaning: "nobody knows",
  phase: "handover",
  agent_pid: null,
  copied: null,
  peer: "10.0.0.2:4444",
  qemu_pid: 2201,
  qemu_alive: true,
  run_state: "postmigrate",
  qmp: "/run/vm1/qmp.sock",
  started_at: TIME,
  updated_at: TIME,
  note: null,
  journal: "/s/6f1c2f0e.source.json",
  next: "migrate-agent resolve 6f1c2f0e --side source",
};

function status(migrations: MigrationAccount[], damaged: { path: string; problem: string }[] = []) {
  return statusText({ type: "status", time: TIME, state_dir: "/s", migrations, damaged });
}

Deno.test("status as text: a block a migration, what is not trusted, and what to do", () => {
  const other: MigrationAccount = {
    ...ACCOUNT,
    side: "destination",
    state: "never_ran",
    agent_pid: 77,
    copied: { disk_bytes: 2 ** 20, disk_total_bytes: 2 ** 30, ram_bytes: 0 },
    qemu_alive: false,
    peer: null,
    note: "no word since",
    next: null,
  };
  assertEquals(
    status([ACCOUNT, other], [{ path: "/s/x.source.json", problem: "is damaged: not JSON" }]),
    `Migration 6f1c2f0e, source, guest 'vm\\u001b[31m1'
  state    handover_sent, phase handover: nobody knows
  agent    none is at work
  QEMU     process 2201, QMP /run/vm1/qmp.sock, guest postmigrate
  peer     10.0.0.2:4444
  since    ${TIME}, last change ${TIME}
  next     migrate-agent resolve 6f1c2f0e --side source

Migration 6f1c2f0e, destination, guest 'vm\\u001b[31m1'
  state    never_ran, phase handover: nobody knows
  agent    process 77 is at work
  copied   1.00 MiB of 1.00 GiB of the disks, 0 B of memory
  QEMU     process 2201 has ended
  note     no word since
  since    ${TIME}, last change ${TIME}
  next     nothing to do

Not to be trusted: /s/x.source.json is damaged: not JSON.
`,
  );
  assertEquals(status([]), "No migrations in /s.\n");
});

Deno.test("status as text: a Xen domain is what Xen says of it", () => {
  const domain: MigrationAccount = { ...ACCOUNT, hypervisor: "xen", run_state: "suspend" };
  const received: MigrationAccount = { ...domain, qmp: null, qemu_pid: null, run_state: "paused" };
  const lines = status([domain, received, { ...received, run_state: null }]).split("\n");
  assertEquals(lines.filter((line) => line.startsWith("  domain")), [
    "  domain   suspend, its device model's QMP /run/vm1/qmp.sock",
    "  domain   paused",
    "  domain   is not here",
  ]);
});

Deno.test("resolve as text: where the guest is, and what was done", () => {
  const document: ResolvedLine = {
    type: "resolved",
    time: TIME,
    migration_id: "6f1c2f0e",
    side: "source",
    guest: "vm1",
    state_before: "owning",
    state: "kept",
    meaning: "the guest stays here",
    run_state: "running",
    done: ["ended the mirror 'migrate-agent-0'"],
    journal: null,
  };
  assertEquals(
    resolvedText(document),
    `Migration 6f1c2f0e, source, guest 'vm1': kept (was owning): the guest stays here.
  done     ended the mirror 'migrate-agent-0'
  guest    running
`,
  );
  assertEquals(
    resolvedText({ ...document, state_before: "kept", done: [], run_state: null }),
    `Migration 6f1c2f0e, source, guest 'vm1': kept: the guest stays here.
  done     nothing: there was nothing left to do
`,
  );
});
