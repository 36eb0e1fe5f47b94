"""Attach the disks of an export to another running domain, read-only or through overlays.

The way of one hotadd: check the other domain → make the export, or use the one that runs →
write down what will be attached (records/consumers.py) → overlays → libvirt, disk by disk →
wait until the guest has looked. What fails on the way is taken back; what a crash leaves is
found by its record, and ended by `hotremove` or `release --force`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from vircpt.errors import NotFound, VircptError, quoted
from vircpt.hypervisor import hotplug
from vircpt.hypervisor.connection import default_uri
from vircpt.hypervisor.domain import DomainFacts, LibvirtDomain
from vircpt.hypervisor.hotplug import NewDisk, Sockets
from vircpt.interrupts import hold, resume, uninterrupted
from vircpt.operations import borrow, consumers, overlays, ownership, plugs, reading
from vircpt.operations.borrow import Wanted
from vircpt.operations.reading import ExportedDisk
from vircpt.records import consumers as consumer_records
from vircpt.records import exports as records
from vircpt.records.consumers import Consumer, ConsumerRecord
from vircpt.records.exports import ExportDirectory

if TYPE_CHECKING:
    from vircpt.operations.export import StartedExport

LOOK_LIMIT = 10.0
"""Seconds that the guest gets to look at a new disk."""
_UNDO_LIMIT = 10.0


@dataclass(frozen=True)
class HotaddOptions:
    """What may be asked of a hotadd; `export` of the export that it makes, if none runs.

    `overlay_dir`: where the overlays go, by default the export's own directory.
    `look_limit`: seconds to wait until the guest has looked at the disks; 0: don't wait.
    """

    export: Wanted = field(default_factory=Wanted)
    writable: bool = False
    bus: str = "virtio"
    overlay_dir: str | None = None
    look_limit: float = LOOK_LIMIT


@dataclass(frozen=True)
class AttachedDisk:
    """A disk as the other domain has it: `source` is its target in the export.

    `seen`: the guest's kernel has read from it; None if that was not waited for. `name` is
    what the guest calls it, if its agent tells; `device` finds it by its serial, where the
    guest has udev. `overlay` is the path of the file that takes its writes.
    """

    source: str
    target: str
    serial: str
    bus: str
    overlay: str | None
    seen: bool | None
    name: str | None

    @property
    def device(self) -> str:
        prefix = "virtio-" if self.bus == "virtio" else "scsi-0QEMU_QEMU_HARDDISK_"
        return f"/dev/disk/by-id/{prefix}{self.serial}"

    @property
    def mount_command(self) -> str:
        """For inside the guest."""
        return f"mount {'' if self.overlay else '-o ro '}{self.device} /mnt"


@dataclass(frozen=True)
class Hotadded:
    """Disks of a domain's export that another domain has now.

    `start` is how the export came about, None if it ran before.
    """

    export: ExportDirectory
    start: StartedExport | None
    consumer: Consumer
    to: str
    disks: tuple[AttachedDisk, ...]

    @property
    def remove_command(self) -> str:
        """The command line that ends it, ready to paste."""
        record = self.export.record
        connect_to = "" if record.uri == default_uri() else f" -c {quoted(record.uri)}"
        names = f"-d {quoted(record.domain)} hotremove --from {quoted(self.to)}"
        return f"vircpt{connect_to} {names}"


def hotadd(domain: LibvirtDomain, other: LibvirtDomain, options: HotaddOptions) -> Hotadded:
    """Attach the disks of `domain`'s export to `other`; makes the export if none runs.

    From its return on interruptions wait, if somebody will tell of it (interrupts.hold). Raises
    InvalidInput if both are the same domain, NotSupported if `other` can't take the disks,
    and what `export.start` raises.
    """
    facts = plugs.check(domain, other, options.bus, writable=options.writable)
    directory, started = borrow.borrow(domain, options.export, "hotadd")
    consumer: Consumer | None = None
    try:
        if started:
            resume()
        consumer, new = _attach(domain, other, facts, directory, options)
        disks = _looked_at(other, facts, new, options.look_limit)
        hold()
    except BaseException as error:
        with uninterrupted():
            _take_back(domain, directory, started, consumer, error)
        raise
    return Hotadded(directory, started, consumer, other.name, disks)


def withdraw(domain: LibvirtDomain, done: Hotadded, error: BaseException) -> None:
    """Undo a hotadd that nobody has been told of because of `error`."""
    with uninterrupted():
        _take_back(domain, done.export, done.start, done.consumer, error)


def _attach(
    domain: LibvirtDomain,
    other: LibvirtDomain,
    facts: DomainFacts,
    directory: ExportDirectory,
    options: HotaddOptions,
) -> tuple[Consumer, list[NewDisk]]:
    with ExitStack() as locks:
        for one in (domain, other):  # two at once would choose the same target
            locks.enter_context(records.locked(one.uuid, one.name))
        if not ownership.is_alive(domain.connection, directory):
            raise NotFound("the export has been released meanwhile", domain=domain.name)
        plugs.check_reach(directory, other)
        disks = reading.choose(directory, options.export.disks, options.export.exclude)
        if options.writable:
            for disk in disks:
                overlays.refuse(disk)
        sockets = hotplug.sockets(other)
        record = _record(domain, other, directory, disks, sockets, options)
        consumer: Consumer | None = None
        try:
            with uninterrupted():
                consumer = consumer_records.create(directory, record)
            if options.writable:
                overlays.make(consumer, disks, facts.qemu_owner or other.connection.qemu_owner())
            new = plugs.new_disks(directory, consumer, options.bus, sockets)
            for plug in new:
                hotplug.attach(other, plug)
        except BaseException as error:
            if consumer is not None:
                with uninterrupted():
                    _detach(other, consumer, error)
            raise
    return consumer, new


def _record(
    domain: LibvirtDomain,
    other: LibvirtDomain,
    directory: ExportDirectory,
    disks: Sequence[ExportedDisk],
    sockets: Sockets,
    options: HotaddOptions,
) -> ConsumerRecord:
    consumer_id, named = plugs.name_disks(
        [one.target for one in disks], domain.name, sockets, options.bus
    )
    return ConsumerRecord(
        id=consumer_id,
        kind="hotadd",
        export=directory.record.id,
        created=time.time(),
        uri=other.connection.uri,
        domain=other.name,
        uuid=other.uuid,
        disks=tuple(replace(one, overlay=options.writable) for one in named),
        overlay_dir=options.overlay_dir if options.writable else None,
    )


def _looked_at(
    other: LibvirtDomain, facts: DomainFacts, new: Sequence[NewDisk], limit: float
) -> tuple[AttachedDisk, ...]:
    """Wait until the guest has looked at the disks, `limit` seconds at the most."""
    seen: set[str] = set()
    deadline = time.monotonic() + limit
    pause = 0.01
    while limit and facts.state == "running":
        seen |= {one.target for one in new if hotplug.was_read(other, one.target)}
        if len(seen) == len(new) or time.monotonic() > deadline:
            break
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)
    names = hotplug.names_in_guest(other) if seen and facts.agent_connected else {}
    return tuple(
        AttachedDisk(
            source=one.source.export,
            target=one.target,
            serial=one.serial,
            bus=one.bus,
            overlay=one.overlay,
            seen=one.target in seen if limit else None,
            name=names.get(one.target),
        )
        for one in new
    )


def _take_back(
    domain: LibvirtDomain,
    directory: ExportDirectory,
    started: StartedExport | None,
    consumer: Consumer | None,
    error: BaseException,
) -> None:
    """Leave nothing of a hotadd that did not come about, unless a guest holds on to it."""
    if consumer is not None:
        with records.locked(domain.uuid, domain.name, records.END_PATIENCE):
            _detach(domain, consumer, error)
    borrow.give_back(domain, directory, started, error)


def _detach(near: LibvirtDomain, consumer: Consumer, error: BaseException) -> None:
    record = consumer.record
    try:
        consumers.end(near.connection, consumer, _UNDO_LIMIT)
    except VircptError as second:
        error.add_note(
            f"({second})\nwhat was attached to {record.domain} may be there still; end it with: "
            f"vircpt hotremove --from {quoted(record.domain or '')}"
        )
