// A temporary folder for one test: `await using temp = await TempDir.create();`

export class TempDir implements AsyncDisposable {
  readonly path: string;

  private constructor(path: string) {
    this.path = path;
  }

  /** A new folder that only this user can enter. Its path is short: unix sockets fit into it. */
  static async create(): Promise<TempDir> {
    return new TempDir(await Deno.makeTempDir({ prefix: "migrate-agent-" }));
  }

  /** The path of `name` in it. */
  file(name: string): string {
    return `${this.path}/${name}`;
  }

  /** Removes it with all that it holds. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Deno.remove(this.path, { recursive: true });
  }
}
