import type { Target } from "../target.ts";
export const COMMAND_LINE_TARGET: Target<string> = {
  name: "command_line",
  share: 1,
  make: () => "",
  run: () => {},
};
