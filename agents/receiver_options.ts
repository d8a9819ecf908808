// What a receiver's story needs besides the connection.

import type { StateFolder } from "../src/migration/state_folder.ts";
import type { Admitted } from "./door.ts";
import type { LandingHosts } from "./landing_host.ts";
import type { NbdListen } from "./nbd_transport.ts";

export interface ReceiverOptions extends LandingHosts {
  /** Called on a valid `hello`: gives the migration's id, or throws why it cannot be served. */
  claim: () => string;
  sender: Admitted;
  state: StateFolder;
  nbd: NbdListen;
  /** Whether disks may cross the network readable for everybody on it. */
  allowPlainNbd: boolean;
}
