// What a QEMU can do, asked of QEMU itself and never derived from its version.

import type { QmpClient } from "../qmp/client.ts";

export interface QemuFeatures {
  /** Commands that it knows. */
  commands: ReadonlySet<string>;
  /** Migration capabilities that it knows. */
  capabilities: ReadonlySet<string>;
  /** Whether it can encrypt NBD with a shared key. */
  psk: boolean;
}

export async function queryFeatures(qmp: QmpClient, signal: AbortSignal): Promise<QemuFeatures> {
  const [commands, capabilities, credentials] = await Promise.all([
    qmp.execute("query-commands", {}, { signal }),
    qmp.execute("query-migrate-capabilities", {}, { signal }),
    qmp.execute("qom-list-types", { implements: "tls-creds" }, { signal }),
  ]);
  return {
    commands: new Set(commands.map((command) => command.name)),
    capabilities: new Set(capabilities.map((status) => status.capability)),
    psk: credentials.some((type) => type.name === "tls-creds-psk"),
  };
}
