// What a fake QEMU answers with instead of a `return`, and what it takes for the end of a connection.

export class Refusal extends Error {
  readonly errorClass: string;
  constructor(desc: string, errorClass = "GenericError") {
    super(desc);
    this.errorClass = errorClass;
  }
}

/** What a read or write of a connection throws that was closed at either end. */
export function isClosed(error: unknown): boolean {
  return error instanceof Deno.errors.BadResource || error instanceof Deno.errors.BrokenPipe ||
    error instanceof Deno.errors.Interrupted || error instanceof Deno.errors.ConnectionReset;
}
