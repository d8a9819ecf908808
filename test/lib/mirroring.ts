// Mirrors between two real QEMUs on two hosts, by the project's classes and without agents: what the
// agents do about a lost link is done here step by step. The tiny guest runs at the left host, its disks
// are mirrored, encrypted, to QEMUs at the right one that can be ended and replaced.

import { assertEquals } from "@std/assert";
import { Exports } from "../../src/guest/exports.ts";
import { inspectGuest } from "../../src/guest/inspect.ts";
import { MirrorSet } from "../../src/guest/mirror.ts";
import { tcpConnections } from "../../src/guest/nbd_connections.ts";
import { makePskKey, PskCredentials } from "../../src/guest/nbd_keys.ts";
import type { Disk } from "../../src/guest/params.ts";
import { makePrivateFolder, type PrivateFolder } from "../../src/guest/private_folder.ts";
import type { QemuFeatures } from "../../src/guest/features.ts";
import { assertSameDisk, makeImage, makeNoise } from "./disks.ts";
import { attach, formatOf, makeBootDisk, startGuest } from "./moving.ts";
import type { TestNet } from "./netns.ts";
import { TempDir } from "./temp.ts";
import { TestVm } from "./vm.ts";

const MIB = 2 ** 20;
const BOOT_BYTES = 8 * MIB;

/** The disks, raw and qcow2, and the endings of their files' names. */
const NAMES = ["boot.raw", "data.qcow2"];

export interface MirrorSceneOptions {
  binary: string;
  /** Of the second disk, full of noise. */
  dataBytes: number;
  signal: AbortSignal;
}

export class MirrorScene implements AsyncDisposable {
  readonly net: TestNet;
  readonly source: TestVm;
  readonly disks: Disk[];
  readonly features: QemuFeatures;
  /** Owned by QEMU's user at the source, for sockets too. */
  readonly folder: PrivateFolder;
  readonly #temp: TempDir;
  readonly #options: MirrorSceneOptions;
  readonly #key = makePskKey();
  readonly #held = new AsyncDisposableStack();
  #tlsCreds: string | undefined;

  private constructor(
    net: TestNet,
    options: MirrorSceneOptions,
    parts: Pick<MirrorScene, "source" | "disks" | "features" | "folder"> & { temp: TempDir },
  ) {
    this.net = net;
    this.#options = options;
    this.source = parts.source;
    this.disks = parts.disks;
    this.features = parts.features;
    this.folder = parts.folder;
    this.#temp = parts.temp;
    for (const part of [parts.temp, parts.source, parts.folder]) this.#held.use(part);
  }

  static async create(net: TestNet, options: MirrorSceneOptions): Promise<MirrorScene> {
    const { binary, dataBytes, signal } = options;
    const temp = await TempDir.create();
    const paths = NAMES.map((name) => temp.file(name));
    await makeBootDisk(paths[0]!, { sizeBytes: BOOT_BYTES, signal });
    const content = makeNoise(dataBytes);
    await makeImage(paths[1]!, { format: "qcow2", sizeBytes: dataBytes, content, signal });
    const source = await startGuest(attach(...paths), { signal, binary, netns: net.left.netns });
    const { params: { disks }, features } = await inspectGuest(source.monitor, {
      qemuPid: source.pid,
      choice: { copyStorage: true, only: null, exclude: [] },
      signal,
    });
    const folder = await makePrivateFolder({ pid: source.pid });
    const scene = new MirrorScene(net, options, { temp, source, disks, features, folder });
    for (const [index, { virtual_size_bytes: sizeBytes }] of disks.entries()) {
      const path = scene.target(index);
      await makeImage(path, { format: formatOf(path), sizeBytes, signal });
    }
    return scene;
  }

  /** Where the disk with that number is at the destination. */
  target(index: number): string {
    return this.#temp.file(`target-${NAMES[index]}`);
  }

  /** A new destination QEMU that waits for the guest, with the disks that are there already. */
  async startDestination(): Promise<TestVm> {
    const { binary, signal } = this.#options;
    const paths = this.disks.map((_, index) => this.target(index));
    const args = ["-m", "64", ...attach(...paths), "-incoming", "defer", "-S"];
    const { netns } = this.net.right;
    return this.#held.use(await TestVm.start(args, { signal, binary, netns }));
  }

  /** Serves the disks at `port`, any at first, with the key of this scene. */
  async serve(vm: TestVm, port: number | null) {
    const { signal } = this.#options;
    const folder = this.#held.use(await makePrivateFolder({ pid: vm.pid }));
    const credentials = new PskCredentials(vm.monitor, folder);
    const tlsCreds = await credentials.install({ endpoint: "server", key: this.#key }, signal);
    const exports = new Exports(
      vm.monitor,
      this.disks.map((disk, index) => ({
        disk,
        path: this.target(index),
        protocol: "file",
        create: true,
        note: null,
      })),
    );
    const { address: host } = this.net.right;
    const listen = (at: number | null) => {
      const ports = at === null ? null : { first: at, last: at };
      return exports.start({ listen: { type: "inet", host, ports }, tlsCreds, signal });
    };
    const { port: chosen, exports: started } = await listen(port);
    return {
      exports,
      port: chosen!,
      names: started.map((one) => one.export),
      /** After `exports.stop`. */
      serveAgain: () => listen(chosen),
    };
  }

  /** The mirrors to `port`, not started. */
  async makeMirrors(
    port: number,
    options: { names: string[]; speedBytesPerS?: number },
  ): Promise<MirrorSet> {
    const { address: host } = this.net.right;
    this.#tlsCreds ??= await new PskCredentials(this.source.monitor, this.folder)
      .install({ endpoint: "client", key: this.#key }, this.#options.signal);
    const { pid } = this.source;
    return this.#held.use(
      new MirrorSet(this.source.monitor, {
        tlsCreds: this.#tlsCreds,
        targets: this.disks.map((disk, index) => ({
          disk,
          nbd: { type: "inet", host, port },
          export: options.names[index]!,
        })),
        speedBytesPerS: options.speedBytesPerS ?? 0,
        reconnectMs: 60_000,
        connections: tcpConnections({ pid, host, port }),
        features: this.features,
      }),
    );
  }

  /** Source and destination hold the same disks. Nobody may write to either. */
  async assertSameDisks(): Promise<void> {
    for (const [index, disk] of this.disks.entries()) {
      const a = { path: disk.path!, format: formatOf(disk.path!) };
      const b = { path: this.target(index), format: formatOf(this.target(index)) };
      await assertSameDisk(a, b, this.#options.signal);
    }
  }

  /** The guest runs at the source, whose QEMU holds nothing of the mirrors. */
  async assertNoMirrors(): Promise<void> {
    const { monitor } = this.source;
    const { signal } = this.#options;
    assertEquals(await monitor.execute("query-jobs", {}, { signal }), []);
    const nodes = await monitor.execute("query-named-block-nodes", { flat: true }, { signal });
    const ours = nodes.filter((node) => node["node-name"]?.startsWith("migrate-agent"));
    assertEquals(ours, []);
    assertEquals(await this.source.runState(signal), "running");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#held.disposeAsync();
  }
}
