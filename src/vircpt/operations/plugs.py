"""What a disk is plugged into another domain as: names that are free there, and what it needs."""

from __future__ import annotations

import re
from collections.abc import Iterable

from vircpt.errors import InvalidInput, NotSupported, quoted
from vircpt.hypervisor import hotplug
from vircpt.hypervisor.domain import DomainFacts, LibvirtDomain
from vircpt.hypervisor.hotplug import NbdSource, NewDisk, Sockets
from vircpt.operations import jobs
from vircpt.records import consumers
from vircpt.records.consumers import Consumer, ConsumerDisk
from vircpt.records.exports import ExportDirectory

_ODD = re.compile(r"[^A-Za-z0-9_-]")


def check(domain: LibvirtDomain, other: LibvirtDomain, bus: str, *, writable: bool) -> DomainFacts:
    """Raise what keeps that domain from taking any disk; nothing was changed then."""
    if domain.uuid == other.uuid:
        raise InvalidInput(
            f"{domain.name} can't be given its own disks",
            hint="name another domain with --to",
        )
    facts = other.facts()
    if not facts.is_active:
        raise NotSupported(
            f"domain {other.name} is not running ({facts.state})",
            why="a disk is plugged into a running domain only",
            domain=other.name,
            hint=f"start it: virsh start {quoted(other.name)}",
        )
    jobs.refuse(other, but_backups=True)
    _check_sockets(other, hotplug.sockets(other), bus)
    if writable and other.connection.is_remote:
        raise NotSupported(
            "an overlay can't be made from here",
            why=f"it would have to be on the host of {other.connection.uri}",
            domain=other.name,
            hint="leave --writable out, or run vircpt on that host",
        )
    return facts


def _check_sockets(other: LibvirtDomain, sockets: Sockets, bus: str) -> None:
    if bus not in hotplug.BUSES:
        raise InvalidInput(f"no bus {bus!r}", hint=f"use {' or '.join(hotplug.BUSES)}")
    if bus == "virtio" and not sockets.has_acpi:
        raise NotSupported(
            f"domain {other.name} has no ACPI",
            why="a PCI device can't be plugged into it while it runs",
            domain=other.name,
            hint="add <features><acpi/></features> to its definition and start it anew; or, if it "
            "has a virtio-scsi controller, use --bus scsi",
        )
    if bus == "scsi" and next(sockets.free_places(), None) is None:
        raise NotSupported(
            f"domain {other.name} has no virtio-scsi controller with a free place",
            why="vircpt adds a disk, and no controller, which would stay behind",
            domain=other.name,
            hint="use --bus virtio, or add <controller type='scsi' model='virtio-scsi'/>",
        )


def check_reach(directory: ExportDirectory, other: LibvirtDomain) -> None:
    """Raise NotSupported if that domain's QEMU can't connect to the export."""
    record = directory.record
    here, there = record.uri, other.connection.uri
    if here == there or (not record.remote and not other.connection.is_remote):
        return
    if record.port is None:
        raise NotSupported(
            f"domain {other.name} is on another host",
            why=f"{there} can't reach the Unix socket of an export on this host",
            domain=other.name,
            hint="export over TCP with TLS first (vircpt export --tcp ADDRESS --tls-dir DIR); "
            "hotadd then attaches that export",
        )


def name_disks(
    sources: Iterable[str], domain: str, sockets: Sockets, bus: str
) -> tuple[str, tuple[ConsumerDisk, ...]]:
    """An id for a consumer to be, and for each disk names that are free in its domain."""
    sources = list(sources)
    while True:
        consumer_id = consumers.new_id()
        serials = [serial(domain, source, consumer_id) for source in sources]
        if not sockets.serials & set(serials):
            break
    targets = sockets.free_targets(bus)
    return consumer_id, tuple(
        ConsumerDisk(source, next(targets), number, f"ua-vircpt-{consumer_id}-{source}")
        for source, number in zip(sources, serials, strict=True)
    )


def serial(domain: str, target: str, consumer_id: str) -> str:
    """A serial number that tells where a disk comes from: DOMAIN-vda-1a2b, 20 bytes at most."""
    tail = f"-{target}-{consumer_id[:4]}"
    return _ODD.sub("_", domain)[: max(0, hotplug.SERIAL_LIMIT - len(tail))] + tail


def new_disks(
    directory: ExportDirectory, consumer: Consumer, bus: str, sockets: Sockets
) -> list[NewDisk]:
    """The disks of a consumer as they are plugged in."""
    places = sockets.free_places() if bus == "scsi" else iter(())
    return [
        NewDisk(
            source=_source(directory, one.source),
            target=one.target or "",
            bus=bus,
            serial=one.serial or "",
            alias=one.alias or "",
            overlay=str(consumer.overlay(one.source)) if one.overlay else None,
            place=next(places, None),
        )
        for one in consumer.record.disks
    ]


def _source(directory: ExportDirectory, target: str) -> NbdSource:
    record = directory.record
    if record.port is None:
        return NbdSource(target, socket=str(directory.socket))
    tls = record.tls_dir is not None
    return NbdSource(target, address=record.address, port=record.port, tls=tls)
