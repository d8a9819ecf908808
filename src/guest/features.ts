// What a QEMU can do, asked of QEMU itself and never derived from its version.

import { type QmpClient, QmpCommandError } from "../qmp/client.ts";

export interface QemuFeatures {
  /** Commands that it knows. */
  commands: ReadonlySet<string>;
  /** Migration capabilities that it knows. */
  capabilities: ReadonlySet<string>;
  /** Whether it can encrypt NBD with a shared key. */
  psk: boolean;
}

export async function queryFeatures(qmp: QmpClient, signal: AbortSignal): Promise<QemuFeatures> {
  const [commands, capabilities, psk] = await Promise.all([
    qmp.execute("query-commands", {}, { signal }),
    qmp.execute("query-migrate-capabilities", {}, { signal }),
    // `tls-creds-psk` is there also in a QEMU without GnuTLS, and of no use (Debian's for Xen is one).
    hasType(qmp, { name: "tls-cipher-suites", signal }),
  ]);
  return {
    commands: new Set(commands.map((command) => command.name)),
    capabilities: new Set(capabilities.map((status) => status.capability)),
    psk,
  };
}

/**
 * Never by `qom-list-types`: that makes QEMU load every module from its disk, and a QEMU (10.0) whose
 * package was upgraded meanwhile finds modules of another build there and aborts with its guest.
 */
async function hasType(
  qmp: QmpClient,
  { name, signal }: { name: string; signal: AbortSignal },
): Promise<boolean> {
  try {
    await qmp.execute("qom-list-properties", { typename: name }, { signal });
    return true;
  } catch (error) {
    if (error instanceof QmpCommandError) return false;
    throw error;
  }
}
