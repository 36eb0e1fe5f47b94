"""What a domain's clone boots from: its running export, or one that is made for the clone."""

from __future__ import annotations

from dataclasses import dataclass

from vircpt.errors import NotSupported, VircptError, quoted
from vircpt.hypervisor.agent import FreezeReport
from vircpt.hypervisor.clone import NbdBacking
from vircpt.hypervisor.connection import Connection
from vircpt.hypervisor.domain import LibvirtDomain
from vircpt.interrupts import resume, uninterrupted
from vircpt.operations import boot, boot_stop, borrow
from vircpt.operations.boot import BootDisk, BootOptions, BootSource, StartedClone
from vircpt.operations.selection import Skipped
from vircpt.records.exports import ExportDirectory

_PURPOSE = "boot"


@dataclass(frozen=True)
class ExportSource:
    """The source, and how its export came about: `freeze` is None where one ran already.

    `offline`: it is one of a shut-off domain, which can't be started meanwhile.
    """

    source: BootSource
    offline: bool
    skipped: tuple[Skipped, ...] = ()
    freeze: FreezeReport | None = None


@dataclass(frozen=True)
class BootedDomain:
    """A clone that was started, and what it boots from."""

    clone: StartedClone
    source: ExportSource


def start(
    domain: LibvirtDomain, since: str | None, options: BootOptions, connection: Connection
) -> BootedDomain:
    """Start a clone of the domain; as `boot.start` on `connection`, and raises the same.

    An export that was made for it goes with it, also if it does not come about.
    """
    boot.refuse(connection, domain.definition(), options)
    source = of_domain(domain, since)
    try:
        return BootedDomain(boot.start(connection, source.source, options), source)
    except BaseException as error:
        with uninterrupted():
            give_back(domain, source.source.export, error)
        raise


def of_domain(domain: LibvirtDomain, since: str | None) -> ExportSource:
    """The export that runs on the domain, or a new one from checkpoint `since`, if given.

    Raises Busy if an export runs that is based on another checkpoint, NotSupported if it
    can't be booted from, and whatever starting an export raises.
    """
    directory, started = borrow.borrow(domain, borrow.Wanted(since=since), _PURPOSE)
    try:
        if started is not None:
            resume()
        source = _source(domain, directory)
    except BaseException as error:
        if started is not None:
            with uninterrupted():
                give_back(domain, directory.record.id, error)
        raise
    offline = directory.record.kind == "offline"
    if started is None:
        return ExportSource(source, offline)
    return ExportSource(source, offline, started.plan.skipped, started.freeze)


def give_back(domain: LibvirtDomain, export_id: str | None, error: BaseException) -> None:
    """Release the export if it was made for a clone that did not come about because of `error`."""
    try:
        boot_stop.release_unused(domain.connection, export_id)
    except VircptError as second:
        error.add_note(f"and export {export_id} could not be released: {second}")


def _source(domain: LibvirtDomain, directory: ExportDirectory) -> BootSource:
    record = directory.record
    if record.port is not None:
        raise NotSupported(
            "a clone can't boot from an export on TCP",
            why="it is read on a Unix socket of this host",
            domain=domain.name,
            hint=f"release it first: vircpt -d {quoted(domain.name)} release",
        )
    return BootSource(
        xml=domain.definition(),
        disks=tuple(
            BootDisk(one.target, NbdBacking(str(directory.socket), one.target))
            for one in record.disks
        ),
        export=record.id,
        owner=domain.facts().qemu_owner,
    )
