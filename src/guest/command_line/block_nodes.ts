// The graph that `-blockdev` options build, and its rewriting: a disk's format and protocol nodes keep
// their names and get this host's image; backing nodes go, since the copy is flat, and stay where the
// storage is shared.

import { quote } from "../../base/errors.ts";
import type { Destination } from "./destination.ts";
import {
  type Fate,
  fateOfFormatKey,
  fateOfProtocolKey,
  FILTERS,
  FORMATS,
  LOCAL_PROTOCOLS,
} from "./image_options.ts";
import type { KeyValues } from "./keyval.ts";
import { type Option, refuse } from "./options.ts";

/** An image of this host. */
export interface Image {
  path: string;
  format: string;
  protocol: "file" | "host_device";
  /** The source's backing chain is there as well: not a flat copy. */
  keepBacking: boolean;
  /** Never to be written, whatever the source's options say. */
  readOnly: boolean;
  /** The size to give a raw image on a device that may be larger than the disk; else null. */
  windowBytes: number | null;
}

/** A node: an option, and the part of it that describes this layer (`""` or `file.` and so on). */
interface Layer {
  readonly option: Option;
  readonly prefix: string;
}

export class BlockNodes {
  readonly #options: readonly Option[];
  readonly #byName = new Map<string, Layer>();
  /** Options that a disk of the guest reaches and that stay. */
  readonly #used = new Set<Option>();
  /** Of these, the ones whose outermost layer was looked at. */
  readonly #roots = new Set<Option>();
  /** Options that go, since what they hold is not needed here. */
  readonly #dropped = new Set<Option>();

  constructor(options: readonly Option[]) {
    this.#options = options.filter(({ name }) => name === "blockdev");
    for (const option of this.#options) {
      for (const { key, value } of option.args!.pairs) {
        if (key !== "node-name" && !key.endsWith(".node-name")) continue;
        const prefix = key.slice(0, -"node-name".length);
        if (this.#byName.has(value)) refuse(option, `has the node name ${quote(value)} again`);
        this.#byName.set(value, { option, prefix });
      }
    }
  }

  has(nodeName: string): boolean {
    return this.#byName.has(nodeName);
  }

  /** Gives the graph below `nodeName` the image `image`. */
  replaceImage(nodeName: string, image: Image, destination: Destination): void {
    this.#replace(this.#byName.get(nodeName)!, { image, destination, seen: new Set() });
  }

  /** Leaves out the graph below `nodeName`: its drive is empty now. */
  drop(nodeName: string): void {
    const layer = this.#byName.get(nodeName);
    if (layer) this.#drop(layer);
  }

  /** What is to be left out: also, with a word, an image that belongs to no disk of the guest. */
  finish(destination: Destination): ReadonlySet<Option> {
    for (const option of this.#options) {
      if (this.#used.has(option)) {
        // What is around a layer in the middle would stay as the peer wrote it.
        if (!this.#roots.has(option)) refuse(option, "is used by a layer within it alone");
        this.#dropped.delete(option);
      } else if (!this.#dropped.has(option)) {
        const name = option.args!.get("node-name") ?? option.args!.get("driver") ?? "";
        destination.warn(`block node ${quote(name)} is left out: no device of the guest uses it`);
        this.#dropped.add(option);
      }
    }
    return this.#dropped;
  }

  #replace(
    layer: Layer,
    context: { image: Image; destination: Destination; seen: Set<string> },
  ): void {
    const { option, prefix } = layer;
    const { image, destination, seen } = context;
    const args = option.args!;
    this.#enter(layer, seen);
    if (image.readOnly) setReadOnly(layer);
    const driver = args.get(`${prefix}driver`) ?? "";
    if (FILTERS.has(driver)) {
      this.#replace(this.#child(layer, "file"), context);
      keepKeys(layer, ["file"], (key) => fateOfFormatKey(key, { driver, isCopy: false }));
      return;
    }
    if (!FORMATS.has(driver)) {
      if (image.format !== "raw") {
        refuse(option, `has no format layer, but the image is ${quote(image.format)}`);
      }
      replaceProtocol(layer, image);
      return;
    }
    if (driver !== image.format) {
      refuse(option, `is ${quote(driver)}, but the image is ${quote(image.format)}`);
    }
    const file = this.#child(layer, "file");
    this.#enter(file, seen);
    if (image.readOnly) setReadOnly(file);
    replaceProtocol(file, image);
    if (!image.keepBacking) {
      for (const backing of this.#backing(layer)) this.#drop(backing);
      keepKeys(layer, ["file"], (key) => fateOfFormatKey(key, { driver, isCopy: true }));
      if (image.windowBytes !== null) args.set(`${prefix}size`, String(image.windowBytes));
      return;
    }
    keepKeys(layer, ["file", "backing"], (key) => fateOfFormatKey(key, { driver, isCopy: false }));
    for (const backing of this.#backing(layer)) this.#mapInPlace(backing, { destination, seen });
  }

  /** A backing image of shared storage: its own path, as it is called here. */
  #mapInPlace(layer: Layer, context: { destination: Destination; seen: Set<string> }): void {
    const { option, prefix } = layer;
    const args = option.args!;
    this.#enter(layer, context.seen);
    setReadOnly(layer); // it may lie where nothing may be written
    const driver = args.get(`${prefix}driver`) ?? "";
    if (FORMATS.has(driver) || FILTERS.has(driver)) {
      this.#mapInPlace(this.#child(layer, "file"), context);
      for (const backing of this.#backing(layer)) this.#mapInPlace(backing, context);
      keepKeys(
        layer,
        ["file", "backing"],
        (key) => fateOfFormatKey(key, { driver, isCopy: false }),
      );
    } else if (LOCAL_PROTOCOLS.has(driver)) {
      const path = args.get(`${prefix}filename`) ?? "";
      args.set(`${prefix}filename`, context.destination.readable(option, path));
      keepKeys(layer, [], (key) => key === "filename" ? "keep" : fateOfProtocolKey(key));
    } else {
      refuse(option, `has the driver ${quote(driver)}, which is not allowed`);
    }
  }

  #enter({ option, prefix }: Layer, seen: Set<string>): void {
    const key = `${this.#options.indexOf(option)} ${prefix}`;
    if (seen.has(key)) refuse(option, "is below itself");
    seen.add(key);
    this.#used.add(option);
    if (prefix === "") this.#roots.add(option);
  }

  #child(layer: Layer, name: string): Layer {
    return this.#childOrNull(layer, name) ?? refuse(layer.option, `lacks its ${quote(name)} layer`);
  }

  #childOrNull({ option, prefix }: Layer, name: string): Layer | null {
    const args = option.args!;
    const reference = args.get(prefix + name);
    const below = `${prefix}${name}.`;
    const isInline = args.pairs.some(({ key }) => key.startsWith(below));
    if (reference !== undefined && isInline) refuse(option, `has two ${quote(name)} layers`);
    if (reference !== undefined && reference !== "") {
      return this.#byName.get(reference) ??
        refuse(option, `refers to ${quote(reference)}, which is not on the command line`);
    }
    return isInline ? { option, prefix: below } : null;
  }

  #backing(layer: Layer): Layer[] {
    const backing = this.#childOrNull(layer, "backing");
    return backing ? [backing] : [];
  }

  #drop(layer: Layer, seen = new Set<string>()): void {
    const key = `${this.#options.indexOf(layer.option)} ${layer.prefix}`;
    if (seen.has(key)) refuse(layer.option, "is below itself");
    seen.add(key);
    this.#dropped.add(layer.option);
    for (const name of ["file", "backing"]) {
      const child = this.#childOrNull(layer, name);
      if (child) this.#drop(child, seen);
    }
  }
}

function replaceProtocol(layer: Layer, image: Image): void {
  const { option, prefix } = layer;
  const args: KeyValues = option.args!;
  args.set(`${prefix}driver`, image.protocol);
  args.set(`${prefix}filename`, image.path);
  keepKeys(layer, [], (key) => key === "filename" ? "keep" : fateOfProtocolKey(key));
}

function setReadOnly({ option, prefix }: Layer): void {
  const key = `${prefix}read-only`;
  if (option.args!.get(key) !== "on") option.args!.setFlag(key, true);
}

/** Keeps the layer's own keys by their fate; those of the layers `below` are not this layer's. */
function keepKeys(
  { option, prefix }: Layer,
  below: readonly string[],
  fateOf: (key: string) => Fate,
): void {
  option.args!.keep((pair) => {
    if (!pair.key.startsWith(prefix)) return true;
    const key = pair.key.slice(prefix.length);
    if (key === "driver" || below.includes(key.split(".")[0]!)) return true;
    const fate = fateOf(key);
    if (fate === "unknown") refuse(option, `has the part ${quote(pair.key)}, not supported here`);
    return fate === "keep";
  });
}
