// Encryption of NBD between the two QEMUs: TLS with a key that both know (`tls-creds-psk`), made for
// one migration.
// Specification: QEMU's docs/system/tls, "TLS Pre-Shared Keys".

import { type QmpClient, QmpCommandError } from "../qmp/client.ts";
import { giveTo, type PrivateFolder } from "./private_folder.ts";

const OBJECT_ID = "migrate-agent-psk";
const USER = "migrate-agent";
const KEY_BYTES = 32;
/**
 * For GnuTLS. Left to itself it encrypts with ChaCha20 here, although it prefers AES: its first choice,
 * with 256 bits, does not fit a pre-shared key in TLS 1.3. On processors that know AES the mirrors
 * took two to three times as long by that (seen with QEMU 7.2 and 10.0).
 */
export const PSK_PRIORITY = "NORMAL:-CIPHER-ALL:+AES-128-GCM:+CHACHA20-POLY1305";
/**
 * The group ffdhe2048 (RFC 7919, appendix A.1). TLS 1.3 has no use for it, but a QEMU server without
 * it makes one of its own first, which takes from 0.1 s to several (seen with 7.2).
 */
const DH_PARAMETERS = `-----BEGIN DH PARAMETERS-----
MIIBCAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz
+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a
87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7
YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi
7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD
ssbzSibBsu/6iGtCOGEoXJf//////////wIBAg==
-----END DH PARAMETERS-----
`;
const REMOVE_TIMEOUT_MS = 5000;

/** A fresh key, as hex digits. */
export function makePskKey(): string {
  return crypto.getRandomValues(new Uint8Array(KEY_BYTES)).toHex();
}

/**
 * The key in a file for QEMU, and QEMU's object for it. The server reads the file at every
 * handshake, so there it stays until `remove`; the client reads it once.
 */
export class PskCredentials {
  readonly #qmp: QmpClient;
  readonly #folder: PrivateFolder;
  #exists = false;

  constructor(qmp: QmpClient, folder: PrivateFolder) {
    this.#qmp = qmp;
    this.#folder = folder;
  }

  /** Gives the key to QEMU; the id of its credentials. Undo with `remove`, also after an error. */
  async install(
    options: { endpoint: "client" | "server"; key: string },
    signal: AbortSignal,
  ): Promise<string> {
    const { endpoint, key } = options;
    await writeKey(this.#folder, key);
    if (endpoint === "server") await writeDhParameters(this.#folder);
    signal.throwIfAborted(); // a command that is not sent leaves nothing
    this.#exists = true; // a wait that is cancelled does not stop the command
    await this.#qmp.execute("object-add", {
      "qom-type": "tls-creds-psk",
      id: OBJECT_ID,
      endpoint,
      dir: this.#folder.path,
      priority: PSK_PRIORITY,
      ...(endpoint === "client" ? { username: USER } : {}),
    }, { signal }).catch((error) => {
      if (error instanceof QmpCommandError) this.#exists = false;
      throw error;
    });
    if (endpoint === "client") await Deno.remove(keyFile(this.#folder));
    return OBJECT_ID;
  }

  /** Makes QEMU forget the key; can be called twice. The file goes with its folder at the latest. */
  async remove(): Promise<void> {
    if (!this.#exists) return;
    await removeKey(this.#qmp, AbortSignal.timeout(REMOVE_TIMEOUT_MS));
    this.#exists = false;
  }
}

/** The files that a server's `tls-creds-psk` reads from its `dir`; they go with the folder. */
export async function writeServerKey(folder: PrivateFolder, key: string): Promise<void> {
  await writeKey(folder, key);
  await writeDhParameters(folder);
}

async function writeKey(folder: PrivateFolder, key: string): Promise<void> {
  await writeOwned(keyFile(folder), `${USER}:${key}\n`, folder);
}

async function writeDhParameters(folder: PrivateFolder): Promise<void> {
  await writeOwned(`${folder.path}/dh-params.pem`, DH_PARAMETERS, folder); // QEMU's own name for it
}

async function writeOwned(path: string, text: string, { owner }: PrivateFolder): Promise<void> {
  await Deno.writeTextFile(path, text, { mode: 0o600, createNew: true });
  await giveTo(path, owner);
}

function keyFile(folder: PrivateFolder): string {
  return `${folder.path}/keys.psk`; // QEMU's own name for it
}

/** Makes a QEMU forget a migration's key; it must have one. */
export async function removeKey(qmp: QmpClient, signal: AbortSignal): Promise<void> {
  await qmp.execute("object-del", { id: OBJECT_ID }, { signal });
}

/** Whether a QEMU has a migration's key. */
export async function hasKey(qmp: QmpClient, signal: AbortSignal): Promise<boolean> {
  const objects = await qmp.execute("qom-list", { path: "/objects" }, { signal });
  return objects.some(({ name }) => name === OBJECT_ID);
}
