// The one interface behind which a migration is shown. Its three forms are in the files beside it;
// printer_choice.ts chooses.

import type { AgentError } from "../base/errors.ts";
import type { AgentEvent } from "../migration/events.ts";

export interface Printer {
  /** Shows what happened. Returns at once and never throws because of a reader. */
  event(event: AgentEvent): void;
  /** Shows a failure that ended the command without an account (an account shows its own). */
  error(error: AgentError): void;
  /** Restores the terminal; resolves when everything is written. */
  close(): Promise<void>;
}
