"""Disks that come and go while a domain runs: the place for one, its XML, and the real end of it.

All is done live only: a domain's persistent definition is never touched. The device has an
alias of ours, by which it is known again. Removal is a request: a virtio-blk disk goes when
the guest lets it go, and only the domain's live XML tells when that was (libvirt's detach
returns long before).
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product

import libvirt

from vircpt.errors import HostUnreachable, NotFound, VircptError
from vircpt.hypervisor import xml
from vircpt.hypervisor.domain import LibvirtDomain
from vircpt.hypervisor.translate import translated

BUSES = ("virtio", "scsi")
SERIAL_LIMIT = 20
"""Bytes: VIRTIO_BLK_ID_BYTES; what is longer the guest sees cut."""
_SCSI_MODELS = ("virtio-scsi", "virtio-transitional", "virtio-non-transitional")
_SCSI_UNITS = 256
_PREFIXES = {"virtio": "vd", "scsi": "sd"}


@dataclass(frozen=True)
class NbdSource:
    """Where QEMU reads from: an export by its name, on a Unix socket or on TCP."""

    export: str
    socket: str | None = None
    address: str | None = None
    port: int | None = None
    tls: bool = False


@dataclass(frozen=True)
class ScsiPlace:
    """A free unit on a SCSI controller that is there."""

    controller: int
    unit: int


@dataclass(frozen=True)
class NewDisk:
    """A disk to be attached: read-only, or through `overlay`, the path of a qcow2 file on it."""

    source: NbdSource
    target: str
    bus: str
    serial: str
    alias: str
    overlay: str | None = None
    place: ScsiPlace | None = None


@dataclass(frozen=True)
class ScsiController:
    """A SCSI controller that disks can be plugged into, and the units that are taken."""

    index: int
    taken: frozenset[int]


@dataclass(frozen=True)
class Sockets:
    """What a domain has to plug disks into, and the names that are taken there."""

    has_acpi: bool
    targets: frozenset[str]
    serials: frozenset[str]
    controllers: tuple[ScsiController, ...]

    def free_targets(self, bus: str) -> Iterator[str]:
        """vda, vdb, …, vdz, vdaa, … less those that are taken."""
        prefix = _PREFIXES[bus]
        for length in (1, 2):
            for letters in product(string.ascii_lowercase, repeat=length):
                name = prefix + "".join(letters)
                if name not in self.targets:
                    yield name

    def free_places(self) -> Iterator[ScsiPlace]:
        """Units that are free on the controllers that are there."""
        for controller in self.controllers:
            for unit in range(_SCSI_UNITS):
                if unit not in controller.taken:
                    yield ScsiPlace(controller.index, unit)


def sockets(domain: LibvirtDomain) -> Sockets:
    """What the running domain has; names in its persistent definition are taken as well."""
    with translated("cannot read the domain's definition", domain=domain.name):
        texts = [domain.raw.XMLDesc(0)]
        if domain.raw.isPersistent():
            texts.append(domain.raw.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    return parse_sockets(*texts)


def parse_sockets(live: str, *others: str) -> Sockets:
    """The facts in a domain's live XML; targets and serials in `others` are taken too."""
    root = xml.parse(live)
    every = [disk for one in (root, *map(xml.parse, others)) for disk in one.iter("disk")]
    return Sockets(
        has_acpi=root.find("features/acpi") is not None,
        targets=frozenset(xml.attribute(one, "target", "dev") or "" for one in every),
        serials=frozenset(one.findtext("serial") or "" for one in every) - {""},
        controllers=tuple(
            ScsiController(index, _taken(root, index))
            for one in root.findall("devices/controller[@type='scsi']")
            if one.get("model") in _SCSI_MODELS
            for index in [int(one.get("index") or 0)]
        ),
    )


def _taken(root: xml.Element, controller: int) -> frozenset[int]:
    """Units in use, on whichever SCSI target: one that is free everywhere is free."""
    places = root.findall(f"devices//address[@type='drive'][@controller='{controller}']")
    return frozenset(int(one.get("unit") or 0) for one in places)


def build_xml(disk: NewDisk) -> str:
    """The <disk> element. With the chain written out libvirt opens no image to look."""
    if disk.overlay:
        root = xml.new("disk", type="file", device="disk")
        xml.add(root, "driver", name="qemu", type="qcow2")
        xml.add(root, "source", file=disk.overlay)
        backing = xml.add(root, "backingStore", type="network")
        xml.add(backing, "format", type="raw")
        _add_source(backing, disk.source)
        xml.add(backing, "backingStore")
    else:
        root = xml.new("disk", type="network", device="disk")
        xml.add(root, "driver", name="qemu", type="raw")
        _add_source(root, disk.source)
        xml.add(root, "readonly")
    xml.add(root, "target", dev=disk.target, bus=disk.bus)
    xml.add(root, "serial", disk.serial)
    xml.add(root, "alias", name=disk.alias)
    if disk.place:
        xml.add(root, "address", type="drive", controller=str(disk.place.controller),
                bus="0", target="0", unit=str(disk.place.unit))  # fmt: skip
    return xml.write(root)


def _add_source(parent: xml.Element, source: NbdSource) -> None:
    element = xml.add(
        parent, "source", protocol="nbd", name=source.export, tls="yes" if source.tls else None
    )
    if source.socket:
        xml.add(element, "host", transport="unix", socket=source.socket)
    else:
        xml.add(element, "host", name=source.address, port=str(source.port))


def attach(domain: LibvirtDomain, disk: NewDisk) -> None:
    """Plug it in; the guest has not seen it yet when this returns."""
    with translated("cannot attach the disk", domain=domain.name, disk=disk.target):
        domain.raw.attachDeviceFlags(build_xml(disk), libvirt.VIR_DOMAIN_AFFECT_LIVE)


def aliases(domain: LibvirtDomain) -> frozenset[str]:
    """The aliases of the disks that the domain has now; none if it does not run."""
    try:
        with translated("cannot read the domain's definition", domain=domain.name):
            if not domain.raw.isActive():
                return frozenset()
            root = xml.parse(domain.raw.XMLDesc(0))
    except NotFound:
        return frozenset()
    return frozenset(xml.attribute(one, "alias", "name") or "" for one in root.iter("disk"))


def ask_to_let_go(domain: LibvirtDomain, wanted: Iterable[str]) -> None:
    """Request the removal of the disks with these aliases; see `aliases` for when they are gone.

    May be asked again: a guest that was booting has missed the first request.
    """
    for alias in wanted:
        try:
            with translated("cannot detach the disk", domain=domain.name):
                domain.raw.detachDeviceAlias(alias, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        except HostUnreachable:
            raise
        except VircptError as error:
            # gone since we looked, or asked for a moment ago (QEMU: "already in the process
            # of unplug"); else the error is that of the wait that follows
            if alias in aliases(domain) and "process of unplug" not in str(error):
                raise


def settle(domain: LibvirtDomain) -> None:
    """Wait until libvirt has closed what belonged to a disk that has left the XML.

    That is done within one job, after which alone this call is let in.
    """
    try:
        with translated("cannot ask for the domain's disks", domain=domain.name):
            domain.raw.blockStatsFlags("", 0)
    except VircptError:
        return  # it has ended meanwhile, and with it all that it had open


def was_read(domain: LibvirtDomain, target: str) -> bool:
    """True if the guest has read from the disk: its kernel looks for partitions at once."""
    try:
        with translated("cannot ask for the disk's statistics", domain=domain.name, disk=target):
            return int(domain.raw.blockStats(target)[0]) > 0
    except HostUnreachable:
        raise
    except VircptError:
        return False  # it has gone, or the domain has


def names_in_guest(domain: LibvirtDomain) -> dict[str, str]:
    """What the guest calls its disks (/dev/vdb), by target, if its agent tells.

    Through libvirt's own call, which does not taint the domain.
    """
    try:
        with translated("cannot ask the guest for its disks", domain=domain.name):
            told = domain.raw.guestInfo(libvirt.VIR_DOMAIN_GUEST_INFO_DISKS, 0)
    except VircptError:
        return {}
    return {
        told[f"disk.{number}.alias"]: told[f"disk.{number}.name"]
        for number in range(told.get("disk.count", 0))
        if f"disk.{number}.alias" in told and not told.get(f"disk.{number}.partition")
    }
