// What a test needs of the machine. Missing: the test is skipped and says why; on CI (CI=true) that is
// a failure, so that a test which never runs cannot pass for one that passes.

/**
 * Spread into a `Deno.test` definition: `...requires("qemu-system-x86_64", "root")`. Each name is a
 * program on PATH or a path; "root" means to run as root.
 * @throws Error on CI when something is missing
 */
export function requires(...names: string[]): { ignore: boolean } {
  const missing = names.filter((name) => !isThere(name));
  if (missing.length === 0) return { ignore: false };
  const text = `needs ${missing.join(" and ")}, which this machine does not have`;
  if (Deno.env.get("CI") === "true") throw new Error(`This test ${text} (a failure on CI)`);
  console.error(`skipped: a test that ${text}`);
  return { ignore: true };
}

/** The executable under test: what the environment's MIGRATE_AGENT names (scripts/test sets it). */
export function agentExecutable(): string {
  const path = Deno.env.get("MIGRATE_AGENT");
  if (path) return path;
  throw new Error(
    "Set MIGRATE_AGENT to the compiled executable (scripts/build makes dist/migrate-agent)",
  );
}

function isThere(name: string): boolean {
  if (name === "root") return Deno.uid() === 0;
  if (name.startsWith("/")) return isExecutable(name);
  return (Deno.env.get("PATH") ?? "").split(":").some((folder) =>
    isExecutable(`${folder}/${name}`)
  );
}

function isExecutable(path: string): boolean {
  const info = statOrNull(path);
  return info !== null && info.isFile && ((info.mode ?? 0) & 0o111) !== 0;
}

function statOrNull(path: string): Deno.FileInfo | null {
  try {
    return Deno.statSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) {
      return null;
    }
    throw error;
  }
}
