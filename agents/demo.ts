import type { DemoOptions } from "../src/cli/command_table.ts";
export function demo(_options: DemoOptions): Promise<number> {
  return Promise.resolve(0);
}
