"""The guest's file systems on this host, read-only, through libguestfs; and the end of that."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vircpt.blocks import guestmount
from vircpt.blocks.guestmount import Drive, MountedFilesystem
from vircpt.errors import InvalidInput, NotFound, NotSupported, VircptError, quoted
from vircpt.hypervisor.connection import Connection
from vircpt.hypervisor.domain import LibvirtDomain
from vircpt.interrupts import hold, resume, uninterrupted
from vircpt.operations import borrow, consumers, ownership, processes, reading, release
from vircpt.operations.borrow import Wanted
from vircpt.records import consumers as consumer_records
from vircpt.records import exports as records
from vircpt.records.consumers import Consumer, ConsumerDisk, ConsumerRecord
from vircpt.records.exports import ExportDirectory

if TYPE_CHECKING:
    from vircpt.operations.export import StartedExport

_PATIENCE = 10.0
LIMIT = 180.0
"""Seconds for libguestfs: without KVM its appliance takes its time."""


@dataclass(frozen=True)
class Mounted:
    """File systems of an export, mounted below `place`.

    `start` is how the export came about, None if it ran before.
    """

    export: ExportDirectory
    start: StartedExport | None
    consumer: Consumer
    place: str
    filesystems: tuple[MountedFilesystem, ...]

    @property
    def unmount_command(self) -> str:
        """The command line that ends it, ready to paste."""
        return f"vircpt umount {quoted(self.place)}"


@dataclass(frozen=True)
class Unmounted:
    """A mount that is gone; `was_mounted` is False if only its record was left."""

    export: str
    domain: str
    place: str
    was_mounted: bool
    released: bool


def mount(domain: LibvirtDomain, place: Path, wanted: Wanted, limit: float = LIMIT) -> Mounted:
    """Mount the file systems of `domain`'s export at `place`; makes the export if none runs.

    If one system is found on the disks its file systems are mounted as there; else each one
    below its own name, such as vda1. From its return on interruptions wait (interrupts.hold).
    Raises InvalidInput if `place` can't take it, NotSupported without libguestfs.
    """
    place = _check_place(place)
    if domain.connection.is_remote:
        raise NotSupported(
            "an export on another host can't be mounted here",
            why=f"its socket would be on the host of {domain.connection.uri}",
            domain=domain.name,
            hint="run vircpt on that host",
        )
    directory, started = borrow.borrow(domain, wanted, "mount")
    consumer: Consumer | None = None
    try:
        if started:
            resume()
        with records.locked(domain.uuid, domain.name):
            if not ownership.is_alive(domain.connection, directory):
                raise NotFound("the export has been released meanwhile", domain=domain.name)
            disks = reading.choose(directory, wanted.disks, wanted.exclude)
            drives = [Drive(one.target, one.target, _server(directory)) for one in disks]
            with uninterrupted():
                consumer = consumer_records.create(directory, _record(directory, place, drives))
            found = guestmount.start(_mark(consumer), place, consumer.path, drives, limit)
        hold()
    except BaseException as error:
        with uninterrupted():
            _take_back(domain, directory, started, consumer, error)
        raise
    return Mounted(directory, started, consumer, str(place), found)


def withdraw(domain: LibvirtDomain, done: Mounted, error: BaseException) -> None:
    """Undo a mount that nobody has been told of because of `error`."""
    with uninterrupted():
        _take_back(domain, done.export, done.start, done.consumer, error)


def umount(connection: Connection, place: Path) -> Unmounted:
    """Unmount what `mount` mounted at `place`; an export made for it is released.

    Raises NotFound if vircpt mounted nothing there, Busy if the mount is in use.
    """
    wanted = str(place.parent.resolve() / place.name)  # what is mounted may not answer any more
    for directory in records.list_all():
        if not isinstance(directory, ExportDirectory):
            continue
        record = directory.record
        if not _at(directory, wanted):
            continue
        with records.locked(record.uuid, record.domain, records.END_PATIENCE):
            for consumer in _at(directory, wanted):
                was_mounted = is_alive(connection, consumer)
                consumers.end(connection, consumer, 0)
                released = release.end_unused(connection, directory)
                return Unmounted(record.id, record.domain, wanted, was_mounted, released)
    raise NotFound(f"vircpt has mounted nothing at {place}", hint="see vircpt exports")


def _at(directory: ExportDirectory, place: str) -> list[Consumer]:
    every = consumers.written(directory)
    return [one for one in every if one.record.kind == "mount" and one.record.place == place]


# What consumers.py asks of each kind


def is_alive(_connection: Connection, consumer: Consumer) -> bool:
    """True if its process lives: without one a mount gives errors only."""
    return bool(processes.find(*guestmount.marked(_mark(consumer))))


def place(consumer: Consumer) -> str:
    """The directory."""
    return str(consumer.record.place)


def end(_connection: Connection, consumer: Consumer, _limit: float) -> None:
    """Unmount it, and return when its process has ended; raises Busy if it is in use."""
    mark = _mark(consumer)
    if guestmount.unmount(mark):
        processes.wait(*guestmount.marked(mark), limit=_PATIENCE)  # it tidies up, and goes
    processes.end_leaders(*guestmount.marked(mark))
    guestmount.unmount(mark)  # it may have been about to mount


def _mark(consumer: Consumer) -> str:
    return f"vircpt-{consumer.record.id}"


def _check_place(place: Path) -> Path:
    try:
        found = place.resolve(strict=True)
        names = list(found.iterdir())
    except OSError as error:
        raise InvalidInput(f"nothing can be mounted at {place}", why=str(error.strerror)) from error
    if names:
        raise InvalidInput(f"{place} is not empty", hint="mount on an empty directory")
    return found


def _server(directory: ExportDirectory) -> str:
    record = directory.record
    if record.port is None:
        return f"unix:{directory.socket}"
    if record.tls_dir is not None:
        raise NotSupported(
            "an export over TLS can't be mounted",
            why="libguestfs does not speak TLS to NBD servers",
            domain=record.domain,
            hint=f"mount makes one of its own after: vircpt -d {quoted(record.domain)} release",
        )
    host = f"[{record.address}]" if ":" in (record.address or "") else record.address
    return f"{host}:{record.port}"


def _record(directory: ExportDirectory, place: Path, drives: list[Drive]) -> ConsumerRecord:
    return ConsumerRecord(
        id=consumer_records.new_id(),
        kind="mount",
        export=directory.record.id,
        created=time.time(),
        place=str(place),
        disks=tuple(ConsumerDisk(one.target) for one in drives),
    )


def _take_back(
    domain: LibvirtDomain,
    directory: ExportDirectory,
    started: StartedExport | None,
    consumer: Consumer | None,
    error: BaseException,
) -> None:
    if consumer is not None:
        try:
            with records.locked(domain.uuid, domain.name, records.END_PATIENCE):
                consumers.end(domain.connection, consumer, 0)
        except VircptError as second:
            error.add_note(f"and it could not be unmounted: {second}")
    borrow.give_back(domain, directory, started, error)
