import config from "../deno.json" with { type: "json" };

/** This program's version, from deno.json, which is compiled in. */
export const AGENT_VERSION: string = config.version;
