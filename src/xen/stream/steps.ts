// How a grammar is read from chunks of any size: it asks for the next bytes, and is resumed once they
// are there. What it only passes over is never copied. Knows nothing of what the bytes mean.

/** Bytes that a grammar asked for: its own until its next step only. */
export interface Taken {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  /** Where in the stream they begin. */
  readonly offset: number;
}

/** Sees the beginning of what is not complete yet, so that nobody waits for the rest of what is wrong. */
export type Check = (part: Uint8Array, offset: number) => void;

export type Step<Kind extends string> =
  /** The next `count` (1 or more) bytes, as one piece. */
  | { do: "take"; count: number; check?: Check }
  /** The same bytes again, with `count` more after them. */
  | { do: "extend"; count: number }
  /** `count` (1 or more) bytes that nobody looks at. */
  | { do: "pass"; count: number }
  /** What was taken last is of this kind, and a piece by itself. Else it is data. */
  | { do: "give"; kind: Kind };

/** What a grammar is written in. Each step but a `take` and an `extend` is answered with null. */
export type Steps<Kind extends string, Result> = Generator<Step<Kind>, Result, Taken | null>;

export interface Piece<Kind extends string> {
  readonly kind: Kind | "data";
  readonly bytes: Uint8Array;
}

/** The next `count` bytes. */
export function* take<Kind extends string>(count: number, check?: Check): Steps<Kind, Taken> {
  const step: Step<Kind> = check ? { do: "take", count, check } : { do: "take", count };
  return (yield step)!;
}

export function* extend<Kind extends string>(count: number): Steps<Kind, Taken> {
  return (yield { do: "extend", count })!;
}

export function* pass<Kind extends string>(count: number): Steps<Kind, void> {
  if (count > 0) yield { do: "pass", count };
}

export function* give<Kind extends string>(kind: Kind): Steps<Kind, void> {
  yield { do: "give", kind };
}

/** Reads by a grammar that does not end by itself: what must not be there, it refuses. */
export class StepReader<Kind extends string> {
  readonly #grammar: Steps<Kind, never>;
  #step: Step<Kind>;
  /** Everything before this was decided. */
  #offset = 0;
  /** What is left of a pass. */
  #passCount = 0;
  /** The bytes of a take so far, and how many they are to be. */
  #room = new Uint8Array(0);
  #kept = 0;
  #wanted = 0;
  #check: Check | undefined;
  #failure: { error: unknown } | null = null;

  constructor(grammar: Steps<Kind, never>) {
    this.#grammar = grammar;
    this.#step = grammar.next(null).value;
    this.#begin();
  }

  get offset(): number {
    return this.#offset;
  }

  /**
   * Takes the chunk apart. The pieces of all chunks together are the stream's bytes, in order; what a
   * take does not have whole yet is kept back. Most pieces lie in the chunk, and none may be used
   * after the next was asked for. To be run to its end before the next chunk.
   * @throws what the grammar throws, and that again ever after
   */
  *feed(chunk: Uint8Array): Generator<Piece<Kind>, void> {
    if (this.#failure) throw this.#failure.error;
    try {
      yield* this.#feed(chunk);
    } catch (error) {
      this.#failure = { error };
      throw error;
    }
  }

  *#feed(chunk: Uint8Array): Generator<Piece<Kind>, void> {
    let at = 0;
    /** Everything before this was given out or is kept. */
    let given = 0;
    /** Where the present take begins; -1 in an earlier chunk. */
    let start = -1;
    while (at < chunk.length) {
      if (this.#step.do === "pass") {
        const count = Math.min(this.#passCount, chunk.length - at);
        at += count;
        this.#offset += count;
        this.#passCount -= count;
        if (this.#passCount === 0) this.#next(null);
        continue;
      }
      if (this.#kept === 0) start = at;
      const part = chunk.subarray(at, at + this.#wanted - this.#kept);
      at += part.length;
      // What began in an earlier chunk is given out from the room.
      if (start < 0) given = at;
      const taken = this.#keep(part);
      if (taken === null) break;
      this.#next(taken);
      if (this.#step.do === "extend") continue;
      const kind = this.#step.do === "give" ? this.#step.kind : "data";
      if (start < 0) yield { kind, bytes: taken.bytes };
      else if (kind !== "data") {
        if (given < start) yield { kind: "data", bytes: chunk.subarray(given, start) };
        yield { kind, bytes: chunk.subarray(start, at) };
        given = at;
      }
      this.#offset += this.#kept;
      this.#kept = 0;
      if (this.#step.do === "give") this.#next(null);
    }
    const end = this.#kept === 0 ? at : Math.max(start, given);
    if (given < end) yield { kind: "data", bytes: chunk.subarray(given, end) };
  }

  /** Adds to what is kept. Gives the whole when it is complete. */
  #keep(part: Uint8Array): Taken | null {
    this.#room.set(part, this.#kept);
    this.#kept += part.length;
    const bytes = this.#room.subarray(0, this.#kept);
    this.#check?.(bytes, this.#offset);
    if (this.#kept < this.#wanted) return null;
    return { bytes, view: new DataView(bytes.buffer, 0, bytes.length), offset: this.#offset };
  }

  #next(answer: Taken | null): void {
    this.#step = this.#grammar.next(answer).value;
    this.#begin();
  }

  #begin(): void {
    const step = this.#step;
    switch (step.do) {
      case "take":
        this.#wanted = step.count;
        this.#check = step.check;
        // New, since the piece before may still be in use.
        this.#room = new Uint8Array(step.count);
        break;
      case "extend": {
        this.#wanted += step.count;
        this.#check = undefined;
        const room = new Uint8Array(this.#wanted);
        room.set(this.#room);
        this.#room = room;
        break;
      }
      case "pass":
        this.#passCount = step.count;
        break;
      case "give":
        break;
    }
  }
}
