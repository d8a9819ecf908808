// QMP's wire form: one JSON object a line. Knows nothing of commands or events.
// Specification: QEMU's docs/interop/qmp-spec, section "Protocol Specification".

import { AgentError } from "../base/errors.ts";

export interface QmpMessage {
  QMP?: unknown;
  execute?: string;
  "exec-oob"?: string;
  arguments?: Record<string, unknown>;
  id?: unknown;
  return?: unknown;
  error?: { class: unknown; desc: unknown };
  event?: string;
  data?: unknown;
  timestamp?: unknown;
}

/** Longest answer accepted: `query-qmp-schema` is about 300 KiB, so this is generous. */
const MAX_LINE_BYTES = 64 * 1024 * 1024;

export function encodeMessage(message: QmpMessage): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(message) + "\n");
}

/**
 * The messages of a byte stream, however it is split.
 * @throws AgentError `qmp_bad_message` on a line that is not a JSON object or is too long
 */
export async function* decodeLines(
  readable: ReadableStream<Uint8Array>,
): AsyncGenerator<QmpMessage> {
  const decoder = new TextDecoder();
  const parts: string[] = [];
  let length = 0;
  for await (const chunk of readable) {
    const lines = decoder.decode(chunk, { stream: true }).split("\n");
    for (const line of lines.slice(0, -1)) {
      parts.push(line);
      const text = parts.join("").trim();
      parts.length = length = 0;
      if (text !== "") yield parseMessage(text);
    }
    const rest = lines.at(-1)!;
    length += rest.length;
    if (length > MAX_LINE_BYTES) {
      throw new AgentError("qmp_bad_message", `A QMP line is longer than ${MAX_LINE_BYTES} bytes`);
    }
    if (rest !== "") parts.push(rest);
  }
}

function parseMessage(line: string): QmpMessage {
  let message: unknown;
  try {
    message = JSON.parse(line);
  } catch (cause) {
    throw new AgentError("qmp_bad_message", `A QMP line is not JSON: ${line.slice(0, 80)}`, {
      cause,
    });
  }
  if (typeof message !== "object" || message === null || Array.isArray(message)) {
    throw new AgentError("qmp_bad_message", `A QMP line is not an object: ${line.slice(0, 80)}`);
  }
  return message as QmpMessage;
}
