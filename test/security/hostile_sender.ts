// A sender that keeps to the protocol and lies in what it says: its params document is whatever a test
// makes of the real one.

import { abortable } from "../../src/base/deadline.ts";
import { ControlChannel } from "../../src/control/channel.ts";
import { errorFromBody } from "../../src/control/error_body.ts";
import type { ReplyBody } from "../../src/control/messages.ts";
import type { QemuParams } from "../../src/guest/params.ts";
import type { Link } from "../../src/link/link.ts";
import { Session } from "../../src/wire/session.ts";

export class HostileSender implements AsyncDisposable {
  readonly session: Session;
  readonly channel: ControlChannel;
  readonly #signal: AbortSignal;

  private constructor(link: Link, signal: AbortSignal) {
    const failure = new AbortController();
    this.session = new Session(link, { role: "initiator" });
    this.channel = new ControlChannel(this.session.openStream("control"), {
      side: "source",
      onNotification: (heard) => {
        if (heard.name === "failed") failure.abort(errorFromBody(heard.body, "destination"));
      },
    });
    this.#signal = AbortSignal.any([signal, failure.signal]);
  }

  /** Says hello on `link`, as every sender does. */
  static async greet(link: Link, signal: AbortSignal): Promise<HostileSender> {
    const sender = new HostileSender(link, signal);
    await sender.channel.request("hello", {
      protocol_versions: [1],
      agent_version: "0",
      features: [],
    }, signal);
    return sender;
  }

  /** Sends these params and asks for a plan. Throws the receiver's refusal. */
  async plan(
    params: QemuParams | Uint8Array,
    options: { copyStorage: boolean } = { copyStorage: true },
  ): Promise<ReplyBody<"plan">> {
    const bytes = params instanceof Uint8Array
      ? new Uint8Array(params)
      : new TextEncoder().encode(JSON.stringify(params));
    const stream = this.session.openStream("params");
    const sending = stream.write(bytes).then(() => stream.closeWrite());
    await abortable(sending, this.#signal);
    const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    const body = { copy_storage: options.copyStorage, params_sha256: hash.toHex() };
    return await this.channel.request("plan", body, this.#signal);
  }

  /** Asks for the guest's QEMU to be started. Throws the receiver's refusal. */
  async prepare(): Promise<ReplyBody<"prepare">> {
    const body = { nbd: "tunnel", reconnect_ms: 0, handover_timeout_ms: 0 } as const;
    return await this.channel.request("prepare", body, this.#signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.session.goAway("failed", "that was all");
  }
}
