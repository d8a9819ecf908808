// Types for the part of cli-progress 3.12 that is used here; the package carries none.

/** What it asks of a stream. */
export interface BarStream {
  readonly isTTY: boolean;
  readonly columns: number;
  write(text: string): boolean;
}

export interface BarState<Payload> {
  maxWidth: number;
  value: number;
  total: number;
  /** 0 to 1. */
  progress: number;
  payload?: Payload;
}

export interface BarOptions<Payload> {
  stream: BarStream;
  format(options: unknown, state: BarState<Payload>, payload: Payload): string;
  hideCursor?: boolean;
  forceRedraw?: boolean;
  gracefulExit?: boolean;
  fps?: number;
}

export class SingleBar<Payload> {
  update(value: number, payload: Partial<Payload>): void;
  setTotal(total: number): void;
}

export class MultiBar<Payload> {
  constructor(options: BarOptions<Payload>);
  create(total: number, value: number, payload: Payload): SingleBar<Payload>;
  /** Lines to be shown above the bars by the next `update`. */
  log(text: string): void;
  update(): void;
  stop(): void;
}
