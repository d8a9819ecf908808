// Random numbers that a seed and a case number fix: every case can be made again by itself.

/** sfc32: fast, and good enough to choose mutations. */
export class Random {
  #a: number;
  #b: number;
  #c: number;
  #count = 1;

  constructor(seed: number, caseNumber: number) {
    this.#a = seed | 0;
    this.#b = caseNumber | 0;
    this.#c = (caseNumber / 2 ** 32) | 0;
    for (let i = 0; i < 12; i++) this.bits();
  }

  /** 32 random bits, unsigned. */
  bits(): number {
    const sum = (((this.#a + this.#b) | 0) + this.#count++) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = (((this.#c << 21) | (this.#c >>> 11)) + sum) | 0;
    return sum >>> 0;
  }

  /** A whole number from 0 to `limit - 1`. */
  below(limit: number): number {
    return this.bits() % limit;
  }

  /** True once in `times`, on average. */
  oneIn(times: number): boolean {
    return this.bits() % times === 0;
  }

  /** One of `items`, which must not be empty. */
  pick<T>(items: ArrayLike<T>): T {
    return items[this.bits() % items.length]!;
  }

  /** 1, often; 2, half as often; and so on up to `most`. */
  few(most: number): number {
    let count = 1;
    while (count < most && this.oneIn(2)) count++;
    return count;
  }
}
