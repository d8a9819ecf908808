// The limits of a migration at its sender: those of the command line, and those that somebody sets
// while it goes on.

import { AgentError } from "../src/base/errors.ts";
import type { SendOptions } from "../src/cli/send_command.ts";
import type { LocalSettings } from "../src/control/local_messages.ts";
import type { MirrorSet } from "../src/guest/mirror.ts";
import type { Outgoing } from "../src/guest/source.ts";
import type { PhaseName } from "../src/migration/phases.ts";

export class Limits {
  /** Bytes per second for each disk; 0: no limit. */
  diskBandwidth: number;
  /** Bytes per second; 0: no limit. */
  ramBandwidth: number;
  /** Null: QEMU's own. */
  downtimeLimitMs: number | null;
  readonly #isXen: boolean;

  constructor(
    options: Pick<SendOptions, "guest" | "diskBandwidth" | "ramBandwidth" | "downtimeLimitMs">,
  ) {
    this.#isXen = "xen" in options.guest;
    this.diskBandwidth = options.diskBandwidth ?? 0;
    this.ramBandwidth = options.ramBandwidth ?? 0;
    this.downtimeLimitMs = options.downtimeLimitMs;
  }

  /**
   * For what comes, and at once for what goes on in `phase`; null leaves a limit as it is.
   * @throws AgentError `no_downtime_limit` (kind refused)
   */
  async change(settings: LocalSettings, now: {
    phase: PhaseName | null;
    mirrors: MirrorSet | undefined;
    outgoing: Outgoing | undefined;
    signal: AbortSignal;
  }): Promise<void> {
    const { disk_bandwidth, ram_bandwidth, downtime_limit_ms } = settings;
    const { phase, mirrors, outgoing, signal } = now;
    if (this.#isXen && downtime_limit_ms !== null) throw noDowntimeLimit();
    this.diskBandwidth = disk_bandwidth ?? this.diskBandwidth;
    this.ramBandwidth = ram_bandwidth ?? this.ramBandwidth;
    this.downtimeLimitMs = downtime_limit_ms ?? this.downtimeLimitMs;
    if (disk_bandwidth !== null && (phase === "mirror" || phase === "ram")) {
      await mirrors?.setSpeed(disk_bandwidth, signal);
    }
    if (phase === "ram" && (ram_bandwidth ?? downtime_limit_ms) !== null) {
      await outgoing?.adjust({
        bandwidthBytesPerS: ram_bandwidth,
        downtimeLimitMs: downtime_limit_ms,
      }, signal);
    }
  }
}

function noDowntimeLimit(): AgentError {
  return new AgentError(
    "no_downtime_limit",
    "The pause of a Xen domain cannot be limited: libxl decides when it suspends the domain",
    { kind: "refused", side: "source", hint: "leave --downtime-limit out" },
  );
}
