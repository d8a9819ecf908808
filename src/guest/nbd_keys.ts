// Encryption of NBD between the two QEMUs: TLS with a key that both know (`tls-creds-psk`), made for
// one migration. The key is in a file only while QEMU reads it.
// Specification: QEMU's docs/system/tls, "TLS Pre-Shared Keys".

import { type QmpClient, QmpCommandError } from "../qmp/client.ts";
import { giveTo, makePrivateFolder } from "./private_folder.ts";

const OBJECT_ID = "migrate-agent-psk";
const USER = "migrate-agent";
const KEY_BYTES = 32;
const REMOVE_TIMEOUT_MS = 5000;

/** A fresh key, as hex digits. */
export function makePskKey(): string {
  return crypto.getRandomValues(new Uint8Array(KEY_BYTES)).toHex();
}

export class PskCredentials {
  readonly #qmp: QmpClient;
  #exists = false;

  constructor(qmp: QmpClient) {
    this.#qmp = qmp;
  }

  /** Gives the key to QEMU; the id of its credentials. Undo with `remove`, also after an error. */
  async install(
    options: { endpoint: "client" | "server"; key: string; pid: number },
    signal: AbortSignal,
  ): Promise<string> {
    await using folder = await makePrivateFolder({ pid: options.pid });
    const file = `${folder.path}/keys.psk`;
    await Deno.writeTextFile(file, `${USER}:${options.key}\n`, { mode: 0o600, createNew: true });
    await giveTo(file, folder.owner);
    this.#exists = true; // a wait that is cancelled does not stop the command
    await this.#qmp.execute("object-add", {
      "qom-type": "tls-creds-psk",
      id: OBJECT_ID,
      endpoint: options.endpoint,
      dir: folder.path,
      ...(options.endpoint === "client" ? { username: USER } : {}),
    }, { signal }).catch((error) => {
      if (error instanceof QmpCommandError) this.#exists = false;
      throw error;
    });
    return OBJECT_ID;
  }

  /** Makes QEMU forget the key; can be called twice. */
  async remove(): Promise<void> {
    if (!this.#exists) return;
    const signal = AbortSignal.timeout(REMOVE_TIMEOUT_MS);
    await this.#qmp.execute("object-del", { id: OBJECT_ID }, { signal });
    this.#exists = false;
  }
}
