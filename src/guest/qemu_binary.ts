// QEMU executables of this host: which one serves a guest, and whether it can.

import { AgentError, describeError, quote } from "../base/errors.ts";
import type { QemuParams } from "./params.ts";

/**
 * The executable to start: of those allowed, the one that is called like the source's, else the
 * first. With none named, the source's name is looked up in PATH, if it is one of QEMU's.
 * @throws AgentError `no_qemu` (kind refused)
 */
export async function chooseBinary(
  params: QemuParams,
  allowed: readonly string[],
): Promise<string> {
  const name = params.qemu.binary.slice(params.qemu.binary.lastIndexOf("/") + 1);
  if (allowed.length > 0) {
    return allowed.find((path) => path.endsWith("/" + name)) ?? allowed[0]!;
  }
  const expected = [`qemu-system-${params.arch}`, "qemu-kvm", "kvm"];
  const names = [...expected.filter((other) => other === name), expected[0]!];
  for (const candidate of names) {
    for (const folder of (Deno.env.get("PATH") ?? "").split(":")) {
      const path = `${folder || "."}/${candidate}`;
      if (await isExecutable(path)) return path;
    }
  }
  throw refusal(
    "no_qemu",
    `No ${expected[0]} in PATH`,
    "install QEMU, or name it with --qemu PATH",
  );
}

/**
 * The version of an executable that has the guest's machine type.
 * @throws AgentError `machine_type_unknown` (kind refused)
 */
export async function checkBinary(
  binary: string,
  options: { params: QemuParams; signal: AbortSignal },
): Promise<string> {
  const { params, signal } = options;
  const [versionText, machines] = await Promise.all([
    run(binary, ["--version"], signal),
    run(binary, ["-machine", "help"], signal),
  ]);
  const version = /version (\d+\.\d+\.\d+)/.exec(versionText)?.[1];
  if (version === undefined) {
    throw refusal("no_qemu", `${quote(binary)} does not say that it is a QEMU`, "see --qemu");
  }
  const known = machines.split("\n").some((line) => line.split(/\s/)[0] === params.machine);
  if (!known) {
    throw refusal(
      "machine_type_unknown",
      `${quote(binary)} (${version}) has no machine type ${quote(params.machine)}; ` +
        `the guest runs on QEMU ${params.qemu.version}`,
      "install a QEMU that is not older than the source's",
    );
  }
  return version;
}

async function run(binary: string, args: string[], signal: AbortSignal): Promise<string> {
  try {
    const { success, stdout, stderr } = await new Deno.Command(binary, {
      args,
      signal,
      stdin: "null",
    }).output();
    const text = new TextDecoder();
    if (success) return text.decode(stdout);
    throw new Error(text.decode(stderr).trim());
  } catch (cause) {
    throw refusal("no_qemu", `Cannot run ${quote(binary)}: ${describeError(cause)}`, "see --qemu");
  }
}

async function isExecutable(path: string): Promise<boolean> {
  try {
    const info = await Deno.stat(path);
    return info.isFile && ((info.mode ?? 0) & 0o111) !== 0;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) {
      return false;
    }
    throw error;
  }
}

function refusal(code: string, message: string, hint: string): AgentError {
  return new AgentError(code, message, { kind: "refused", side: "destination", hint });
}
