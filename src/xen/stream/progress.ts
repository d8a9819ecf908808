// What is known of a domain's migration from the part of its stream that has come by.

import { type Layer, PAGE_BYTES } from "./format.ts";

export class Progress {
  /** Of libxc's image; null before it. */
  imageVersion: number | null = null;
  /** Of the Xen that wrote it, as "4.17"; null before it. */
  xenVersion: string | null = null;
  /** The memory is sent once more, to be compared (`xl migrate --debug`). */
  verifies = false;
  readonly #records = new Map<string, number>();
  #passes = 0;
  #pages = 0;
  #lastPfn = Infinity;

  /** How many records there were of each kind, as "libxc PAGE_DATA". */
  get records(): ReadonlyMap<string, number> {
    return this.#records;
  }

  /**
   * How often the memory was gone through: 1 from the first page on. At least: a pass is seen by its
   * page numbers, which rise; two that happen to fit together look like one.
   */
  get passes(): number {
    return this.#passes;
  }

  /** Something has come that libxc writes of a suspended domain only. */
  get isSuspended(): boolean {
    return this.#records.has("libxc X86_TSC_INFO") || this.#records.has("libxc HVM_CONTEXT");
  }

  /**
   * Bytes of pages with contents. Less than the stream has: libxc also names each page of the address
   * space that is not there (8 bytes each, 8 MiB for the smallest guest).
   */
  get pageBytes(): number {
    return this.#pages * PAGE_BYTES;
  }

  countRecord(layer: Layer, name: string): void {
    const key = `${layer} ${name}`;
    this.#records.set(key, (this.#records.get(key) ?? 0) + 1);
  }

  countPages(record: { firstPfn: number; lastPfn: number; present: number }): void {
    if (this.verifies) return;
    if (record.firstPfn <= this.#lastPfn) this.#passes++;
    this.#lastPfn = record.lastPfn;
    this.#pages += record.present;
  }
}
