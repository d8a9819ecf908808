// Which devices and objects may be built for a peer: emulated ones, by name. Whatever opens something
// of the host, or is not named here, is refused.

const EMULATED = `
  VGA bochs-display cirrus-vga isa-cirrus-vga isa-vga secondary-vga vmware-svga ramfb ati-vga qxl
  qxl-vga virtio-vga virtio-gpu virtio-gpu-pci virtio-gpu-device
  AC97 ac97 ES1370 es1370 adlib cs4231a gus sb16 intel-hda ich9-intel-hda hda-duplex hda-micro
  hda-output virtio-sound virtio-sound-pci virtio-sound-device
  e1000 e1000-82540em e1000-82544gc e1000-82545em e1000e igb i82550 i82551 i82557a i82557b i82557c
  i82558a i82558b i82559a i82559b i82559c i82559er i82562 i82801 ne2k_isa ne2k_pci pcnet rtl8139
  tulip vmxnet3 rocker usb-net
  ide-cd ide-hd floppy scsi-cd scsi-hd sd-card nvme nvme-ns nvme-subsys usb-storage usb-bot usb-uas
  ufs ufs-lu
  ahci ich9-ahci am53c974 dc390 isa-fdc isa-ide piix3-ide piix4-ide lsi lsi53c810 lsi53c895a megasas
  megasas-gen2 mptsas1068 pvscsi sdhci-pci
  ich9-usb-ehci1 ich9-usb-ehci2 ich9-usb-uhci1 ich9-usb-uhci2 ich9-usb-uhci3 ich9-usb-uhci4
  ich9-usb-uhci5 ich9-usb-uhci6 nec-usb-xhci qemu-xhci pci-ohci piix3-usb-uhci piix4-usb-uhci
  usb-ehci usb-hub usb-kbd usb-mouse usb-tablet usb-wacom-tablet usb-audio usb-ccid usb-serial
  i82801b11-bridge ioh3420 pci-bridge pci-bridge-seat pcie-pci-bridge pcie-root-port pxb pxb-pcie
  x3130-upstream xio3130-downstream
  isa-serial isa-parallel isa-debugcon isa-debug-exit pci-serial pci-serial-2x pci-serial-4x
  virtconsole virtserialport i8042 vmmouse mc146818rtc
  ipmi-bmc-sim isa-ipmi-bt isa-ipmi-kcs pci-ipmi-bt pci-ipmi-kcs smbus-ipmi
  i6300esb ib700 pvpanic pvpanic-pci vmcoreinfo vmgenid acpi-erst isa-applesmc sga edu
  pc-testdev pci-testdev
  AMDVI-PCI amd-iommu intel-iommu pc-dimm nvdimm tpm-crb tpm-tis
  can-bus ctucan_pci kvaser_pci mioe3680_pci pcm3680_pci tpci200 ipoctal232 i2c-ddc
`.trim().split(/\s+/);

const VIRTIO = "balloon blk iommu keyboard mem mouse net pmem rng scsi serial tablet".split(" ");
const VIRTIO_FORMS = ["", "-device", "-pci", "-pci-transitional", "-pci-non-transitional"];

const DEVICES: ReadonlySet<string> = new Set([
  ...EMULATED,
  ...VIRTIO.flatMap((name) => VIRTIO_FORMS.map((form) => `virtio-${name}${form}`)),
]);

/** Devices whose refusal deserves its own words. */
const HOST_DEVICES: readonly [RegExp, string][] = [
  [/^(vfio-|x-pci-proxy|pci-assign|kvm-pci-assign)/, "hands a PCI device of the host to the guest"],
  [/^(usb-host|usb-redir|u2f-|ccid-card|canokey)/, "hands a USB device of the host to the guest"],
  [/^(scsi-block|scsi-generic)/, "hands a SCSI device of the host to the guest"],
  [/^virtio-input-host/, "hands an input device of the host to the guest"],
  [/^(vhost-|virtio-9p|usb-mtp|ivshmem|pvrdma|virtio-crypto)/, "uses a service of the host"],
  [/^(loader|guest-loader)$/, "reads a file of the host into the guest"],
];

/** Why a device of this type may not be built here; null when it may. */
export function whyNotDevice(type: string): string | null {
  if (DEVICES.has(type) || /^[\w-]+-(x86_64|i386)-cpu$/.test(type)) return null;
  return HOST_DEVICES.find(([pattern]) => pattern.test(type))?.[1] ??
    "is a device that is not known here";
}

const MEMORY_KEYS = "dump host-nodes merge policy prealloc prealloc-context prealloc-threads " +
  "reserve share size x-use-canonical-path-for-ramblock-id";

/** Objects that may be built, with their keys. */
export const OBJECT_KEYS: ReadonlyMap<string, ReadonlySet<string>> = new Map(
  Object.entries({
    "memory-backend-ram": MEMORY_KEYS,
    "memory-backend-memfd": `${MEMORY_KEYS} hugetlb hugetlbsize seal`,
    "memory-backend-file": `${MEMORY_KEYS} align discard-data mem-path offset pmem readonly rom`,
    "iothread": "aio-max-batch poll-grow poll-max-ns poll-shrink thread-pool-max thread-pool-min",
    "main-loop": "aio-max-batch thread-pool-max thread-pool-min",
    "thread-context": "cpu-affinity node-affinity",
    "throttle-group": "limits",
    "rng-builtin": "",
    "rng-random": "filename",
    "can-bus": "",
  }).map(([type, keys]) => [type, new Set(["qom-type", "id", ...keys.split(" ")])]),
);
