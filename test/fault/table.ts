// The fault matrix as text: a line for every case as it ends, and the table of all of them.

import type { CaseResult } from "./case.ts";
import { FAULTS } from "./faults.ts";

/** One case, with all that is wrong with it. */
export function describeCase(result: CaseResult): string {
  const { point, fault, reached, problems } = result;
  const verdict = problems.length === 0 ? "ok " : "BAD";
  const head = `${verdict} ${point.padEnd(46)} ${fault.padEnd(22)} ${outcomeOf(result)}` +
    (reached ? "" : " (not reached)");
  return [head, ...problems].join("\n      ");
}

const LEGEND = [
  "Cells: where the guest is in the end (`S` source, `D` destination, `-`: the fault itself has ended",
  "it; it starts anew from its disks), exit codes of sender/receiver, what the operator needed (`+N`: N",
  "commands; `again`: `receive` and `send` once more, and nothing else), the longest stall of a guest",
  "that stays at the source (in brackets: for as long as an operator or `--handover-timeout` takes).",
  "`.`: the run does not come to that point. `!`: something did not hold.",
].join("\n");

/** Points x faults x outcome x longest stall, in Markdown. */
export function renderTable(results: readonly CaseResult[]): string {
  const faults = FAULTS.filter((fault) => results.some((result) => result.fault === fault));
  const points = [...new Set(results.map(({ point }) => point))];
  const cell = (point: string, fault: string) => {
    const found = results.filter((result) => result.point === point && result.fault === fault);
    return found.map(cellOf).join(", ");
  };
  const rows = [
    ["point", ...faults],
    ["---", ...faults.map(() => "---")],
    ...points.map((point) => [point, ...faults.map((fault) => cell(point, fault))]),
  ];
  const widths = rows[0]!.map((_, at) => Math.max(...rows.map((row) => row[at]!.length)));
  const lines = rows.map((row) =>
    `| ${row.map((text, at) => text.padEnd(widths[at]!, text === "---" ? "-" : " ")).join(" | ")} |`
  );
  return [...lines, "", LEGEND, "", ...longestStalls(results)].join("\n");
}

function cellOf(result: CaseResult): string {
  const notReached = result.reached ? "" : ".";
  return `${result.problems.length > 0 ? "! " : ""}${notReached}${outcomeOf(result)}`;
}

function outcomeOf({ codes, commands, again, guest, stall }: CaseResult): string {
  if (codes === null) return "did not end";
  const place = { source: "S", destination: "D", none: "-" }[guest];
  const ms = stall === null
    ? ""
    : stall.limitMs === null
    ? ` (${stall.longestMs} ms)`
    : ` ${stall.longestMs} ms`;
  const needed = again ? " again" : commands > 0 ? ` +${commands}` : "";
  return `${place} ${codes.sender}/${codes.receiver}${needed}${ms}`;
}

/** The worst of what is limited. */
function longestStalls(results: readonly CaseResult[]): string[] {
  const limits = [...new Set(results.flatMap(({ stall }) => stall?.limitMs ?? []))].sort((a, b) =>
    a - b
  );
  return limits.map((limitMs) => {
    const [worst, ...others] = results.filter(({ stall }) => stall?.limitMs === limitMs)
      .sort((a, b) => b.stall!.longestMs - a.stall!.longestMs);
    const { stall, point, fault } = worst!;
    return `Longest stall of the ${others.length + 1} with a limit of ${limitMs} ms: ` +
      `${stall!.longestMs} ms (${point}, ${fault})`;
  });
}
