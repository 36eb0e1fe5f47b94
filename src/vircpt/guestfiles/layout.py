"""What lies where on a domain's disks: tables, partitions, volumes, file systems, and the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from vircpt.errors import NotFound
from vircpt.guestfiles.filesystem import FileSystem
from vircpt.guestfiles.intervals import Intervals
from vircpt.guestfiles.source import Source
from vircpt.guestfiles.volumes import Volume


class Role(StrEnum):
    """What an area is, seen from outside."""

    DISK = "disk"
    PARTITION = "partition"
    EXTENDED = "extended partition"
    UNPARTITIONED = "unpartitioned"
    """Between partitions; tables and boot loaders stand there as well."""
    LOGICAL_VOLUME = "logical volume"
    ARRAY = "array"


class Holds(StrEnum):
    """What is in an area."""

    FILE_SYSTEM = "file system"
    """One that `filesystems.open` reads."""
    PARTITIONS = "partitions"
    MEMBER = "member"
    """Of a volume group, an array, or a file system on several devices: see `users`."""
    SWAP = "swap"
    ENCRYPTED = "encrypted"
    UNSUPPORTED = "unsupported"
    """Known by name, not read: `reason` says why."""
    UNKNOWN = "unknown"
    EMPTY = "empty"
    """Its head is all zeroes: no signature at all."""


@dataclass(frozen=True)
class Content:
    """What stands in an area. `type` is blkid's word for it (ext4, LVM2_member, crypto_LUKS)."""

    holds: Holds
    type: str = ""
    label: str = ""
    uuid: str = ""
    reason: str | None = None
    """Why no files can be read from it although there may be some; None if that is not so."""


@dataclass(frozen=True)
class Area:
    """A disk or a part or a product of disks. `name` is unique: vda, vda1, vda:0-1048576
    (unpartitioned, by its bytes), vg0/root, md/NAME.

    `start` is in bytes of its one parent; None if it has none, or lies in several pieces.
    """

    name: str
    role: Role
    parents: tuple[str, ...]
    start: int | None
    size: int
    content: Content
    partition_type: str = ""
    """GPT: type GUID, MBR: two hexadecimal digits."""
    partition_name: str = ""
    users: tuple[str, ...] = ()
    """Areas that are made of this one, if it holds a member."""


@dataclass(frozen=True)
class Layout:
    """All areas, parents before children, in the order of disks and offsets."""

    areas: tuple[Area, ...]
    problems: tuple[str, ...] = ()
    """What was damaged or is missing, each a sentence that names the area."""
    _volumes: Mapping[str, Volume] = field(default_factory=dict, repr=False, compare=False)

    def area(self, name: str) -> Area:
        """Raises NotFound."""
        for area in self.areas:
            if area.name == name:
                return area
        raise NotFound(f"no area {name!r} on these disks")

    def volume(self, name: str) -> Volume:
        """The bytes of an area, and where they lie. Raises NotFound."""
        if name not in self._volumes:
            raise NotFound(f"no area {name!r} on these disks")
        return self._volumes[name]

    def open(self, name: str) -> FileSystem:
        """The file system of an area. Raises NotFound, Damaged, NotSupported."""
        from vircpt.guestfiles.filesystems import open_in

        return open_in(self.volume(name), self.area(name).content.type)

    def filesystems(self) -> tuple[Area, ...]:
        """Areas that hold a file system that can be read."""
        return tuple(area for area in self.areas if area.content.holds is Holds.FILE_SYSTEM)

    def dirty(self, name: str, dirty: Mapping[str, Intervals]) -> Intervals:
        """What `dirty` (by disk target) means for an area, in bytes of the area."""
        return self.volume(name).project(dirty)


def scan(disks: Mapping[str, Source]) -> Layout:
    """Look at the disks, by target. Damage is told in `problems`, never raised; errors of the
    sources themselves (VircptError of NBD) come through."""
    from vircpt.guestfiles.scanning import Scanner

    return Scanner(disks).layout()
