// The sender's requests in the order in which the receiver's story waits for them. A request out of
// order is refused, so that the story can be written from top to bottom.

import { abortable } from "../src/base/deadline.ts";
import { AgentError, toAgentError } from "../src/base/errors.ts";
import type { Handlers } from "../src/control/channel.ts";
import type { ReplyBody, RequestBody, RequestName } from "../src/control/messages.ts";

/** A request that waits for its answer. */
export interface Request<N extends RequestName> {
  body: RequestBody<N>;
  /** Replies with what `work` gives. What it throws is the refusal, and is thrown here too. */
  answer(work: () => Promise<ReplyBody<N>>): Promise<void>;
}

interface Arrival {
  name: RequestName;
  body: unknown;
  reply: PromiseWithResolvers<unknown>;
}

export class Requests {
  #arrival = Promise.withResolvers<Arrival>();
  #waiting = false;
  #refusalOf: ((name: RequestName) => AgentError) | undefined;

  /** For the control channel. */
  readonly handlers = {
    hello: (body) => this.#hold("hello", body),
    plan: (body) => this.#hold("plan", body),
    prepare: (body) => this.#hold("prepare", body),
    incoming: (body) => this.#hold("incoming", body),
    arrived: (body) => this.#hold("arrived", body),
    handover: (body) => this.#hold("handover", body),
    finish: (body) => this.#hold("finish", body),
  } satisfies Handlers;

  /** Waits for the next request, which must be `name`. */
  async next<N extends RequestName>(name: N, signal: AbortSignal): Promise<Request<N>> {
    const request = await abortable(this.#arrival.promise, signal);
    this.#arrival = Promise.withResolvers();
    this.#waiting = false;
    if (request.name !== name) {
      const error = outOfOrder(request.name, `where '${name}' was due`);
      request.reply.reject(error);
      throw error;
    }
    return {
      body: request.body as RequestBody<N>,
      answer: async (work) => {
        try {
          request.reply.resolve(await work());
        } catch (error) {
          const failure = toAgentError(error, { side: "destination" });
          request.reply.reject(failure);
          throw failure;
        }
      },
    };
  }

  /** Answers a request that waits, and every later one, with `error`; a handover with its own. */
  refuse(error: AgentError, handover: AgentError): void {
    const refusalOf = (name: RequestName) => name === "handover" ? handover : error;
    this.#refusalOf = refusalOf;
    if (this.#waiting) {
      this.#arrival.promise.then(({ name, reply }) => reply.reject(refusalOf(name)));
    }
  }

  #hold<N extends RequestName>(name: N, body: RequestBody<N>): Promise<ReplyBody<N>> {
    if (this.#refusalOf) return Promise.reject(this.#refusalOf(name));
    if (this.#waiting) return Promise.reject(outOfOrder(name, "while another request was open"));
    this.#waiting = true;
    const reply = Promise.withResolvers<unknown>();
    this.#arrival.resolve({ name, body, reply });
    return reply.promise as Promise<ReplyBody<N>>;
  }
}

function outOfOrder(name: RequestName, where: string): AgentError {
  return new AgentError("request_out_of_order", `The sender asked for '${name}' ${where}`, {
    side: "destination",
  });
}
