"""What checkpoints there are, how much changed since each, and whether they can be used."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from vircpt.errors import VircptError
from vircpt.hypervisor import checkpoints
from vircpt.hypervisor.checkpoints import Checkpoint, CheckpointDisk
from vircpt.hypervisor.domain import DomainFacts, LibvirtDomain
from vircpt.operations import jobs

if TYPE_CHECKING:
    from vircpt.blocks import headers
    from vircpt.hypervisor import bitmaps


class Health(enum.Enum):
    """The state of the bitmap that a checkpoint has on a disk."""

    OK = "ok"
    INCONSISTENT = "inconsistent"
    """QEMU did not close it properly, as after a crash"""
    MISSING = "missing"
    DISABLED = "disabled"
    """it does not note what is written"""
    NO_DISK = "no-disk"
    """the domain has no such disk any more"""
    UNKNOWN = "unknown"
    """it can't be looked at: another job holds the domain, or an image can't be read from here"""


class DiskStatus(NamedTuple):
    """A disk of a checkpoint; `changed` is the bytes written since, None if not known."""

    target: str
    bitmap: str
    changed: int | None
    health: Health


class CheckpointStatus(NamedTuple):
    """A checkpoint and how it fares; `created` in seconds since 1970."""

    domain: str
    name: str
    description: str
    parent: str | None
    children: tuple[str, ...]
    created: int
    ours: bool
    disks: tuple[DiskStatus, ...]

    @property
    def changed(self) -> int | None:
        """Bytes written since on all its disks, None if not known of one of them."""
        sizes = [disk.changed for disk in self.disks]
        known = [size for size in sizes if size is not None]
        return sum(known) if sizes and len(known) == len(sizes) else None

    @property
    def health(self) -> Health:
        """The worst of its disks."""
        worst = (
            Health.INCONSISTENT,
            Health.MISSING,
            Health.DISABLED,
            Health.NO_DISK,
            Health.UNKNOWN,
        )
        states = {disk.health for disk in self.disks}
        return next((state for state in worst if state in states), Health.OK)


def list_checkpoints(domain: LibvirtDomain) -> list[CheckpointStatus]:
    """All checkpoints of a domain, parents before children."""
    busy = jobs.holds(domain)
    found = checkpoints.list_all(domain, sizes=not busy)
    return _judge(domain, found, found, busy) if found else []


def checkpoint(domain: LibvirtDomain, name: str) -> CheckpointStatus:
    """One checkpoint; raises NotFound."""
    busy = jobs.holds(domain)
    one = checkpoints.read(domain, name, sizes=not busy)
    return _judge(domain, [one], checkpoints.list_all(domain), busy)[0]


def descendant_names(domain: LibvirtDomain, name: str) -> list[str]:
    """The names of those made after `name` on its branch, parents before children."""
    every = checkpoints.list_all(domain)
    return _descendants([(one.name, one.parent) for one in every], name)


def _descendants(pairs: Sequence[tuple[str, str | None]], name: str) -> list[str]:
    inside = {name}
    found = []
    for one, parent in pairs:  # parents stand before their children
        if parent in inside:
            inside.add(one)
            found.append(one)
    return found


def roots(statuses: Sequence[CheckpointStatus]) -> list[CheckpointStatus]:
    """Those without a parent."""
    return [one for one in statuses if one.parent is None]


def leaves(statuses: Sequence[CheckpointStatus]) -> list[CheckpointStatus]:
    """Those without children."""
    return [one for one in statuses if not one.children]


def descendants(statuses: Sequence[CheckpointStatus], name: str) -> list[CheckpointStatus]:
    """Those made after `name` on its branch, without itself."""
    inside = set(_descendants([(one.name, one.parent) for one in statuses], name))
    return [one for one in statuses if one.name in inside]


def _judge(
    domain: LibvirtDomain, wanted: Sequence[Checkpoint], every: Sequence[Checkpoint], busy: bool
) -> list[CheckpointStatus]:
    facts = domain.facts()
    children: dict[str, list[str]] = {}
    for one in every:
        if one.parent:
            children.setdefault(one.parent, []).append(one.name)
    states = _health(domain, facts, wanted, busy)
    return [
        CheckpointStatus(
            domain=domain.name,
            name=one.name,
            description=one.description,
            parent=one.parent,
            children=tuple(children.get(one.name, ())),
            created=one.created,
            ours=one.ours,
            disks=tuple(
                DiskStatus(disk.target, disk.bitmap, disk.size, states[one.name, disk.target])
                for disk in one.disks
            ),
        )
        for one in wanted
    ]


def _health(
    domain: LibvirtDomain, facts: DomainFacts, wanted: Sequence[Checkpoint], busy: bool
) -> dict[tuple[str, str], Health]:
    present = {disk.target for disk in facts.disks}
    look = _Stored(domain, facts) if not facts.is_active else _Live(domain, facts, busy)
    return {
        (one.name, disk.target): look.health(disk) if disk.target in present else Health.NO_DISK
        for one in wanted
        for disk in one.disks
    }


class _Live:
    """Health on a running domain: libvirt leaves the size out where the bitmap is no good."""

    def __init__(self, domain: LibvirtDomain, facts: DomainFacts, busy: bool) -> None:
        self._domain = domain
        self._facts = facts
        self._busy = busy
        self._found: dict[str, dict[str, bitmaps.LiveBitmap]] | None = None

    def health(self, disk: CheckpointDisk) -> Health:
        if disk.size is not None:
            return Health.OK
        if self._busy:
            return Health.UNKNOWN
        if self._found is None:
            from vircpt.hypervisor import bitmaps

            self._found = bitmaps.query(self._domain, self._facts)
        bitmap = self._found.get(disk.target, {}).get(disk.bitmap)
        if bitmap is None:
            return Health.MISSING
        if bitmap.inconsistent:
            return Health.INCONSISTENT
        return Health.OK if bitmap.recording else Health.DISABLED


class _Stored:
    """Health on a shut-off domain: what its images' headers say."""

    def __init__(self, domain: LibvirtDomain, facts: DomainFacts) -> None:
        self._remote = domain.connection.is_remote
        self._facts = facts
        self._found: dict[str, dict[str, headers.StoredBitmap] | None] = {}

    def health(self, disk: CheckpointDisk) -> Health:
        if disk.target not in self._found:
            self._found[disk.target] = self._look(disk.target)
        stored = self._found[disk.target]
        if stored is None:
            return Health.UNKNOWN
        bitmap = stored.get(disk.bitmap)
        if bitmap is None:
            return Health.MISSING
        if bitmap.in_use:
            return Health.INCONSISTENT
        return Health.OK if bitmap.enabled else Health.DISABLED

    def _look(self, target: str) -> dict[str, headers.StoredBitmap] | None:
        from vircpt.blocks import headers

        disk = self._facts.disk(target)
        if self._remote or disk.source is None or disk.source_type not in ("file", "block"):
            return None
        try:
            found = headers.read(disk.source, disk.format).bitmaps
        except VircptError:
            return None
        return {one.name: one for one in found}
