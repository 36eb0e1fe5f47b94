"""Partition tables: GPT, and MBR with logical partitions. Pure reading; nothing is repaired."""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple
from uuid import UUID

from vircpt.guestfiles.source import Damaged, read
from vircpt.guestfiles.volumes import Volume, head

_SECTORS = (512, 4096)
_EXTENDED = (0x05, 0x0F, 0x85)
_PROTECTIVE = 0xEE
_LOGICAL_LIMIT = 256
_ENTRIES_LIMIT = 4096


class Partition(NamedTuple):
    """`number` as Linux counts; bytes of the disk; `type` as in Area.partition_type."""

    number: int
    start: int
    size: int
    type: str
    name: str = ""
    extended: bool = False


class Table(NamedTuple):
    """`kind` is gpt or dos."""

    kind: str
    uuid: str
    partitions: list[Partition]
    problems: list[str]


def gpt(disk: Volume) -> Table | None:
    """The GPT of a disk: the first header, else the one at the end; None if there is none."""
    for sector in _SECTORS:
        found = _gpt_at(disk, sector, sector)
        if found is not None:
            return found
    if not _has_protective(disk):
        return None
    for sector in _SECTORS:
        found = _gpt_at(disk, sector, disk.size // sector * sector - sector)
        if found is not None:
            why = "the first GPT header is damaged, the one at the end was read"
            return found._replace(problems=[*found.problems, why])
    raise Damaged("the disk's MBR announces a GPT, and there is none that makes sense")


def _has_protective(disk: Volume) -> bool:
    raw = head(disk, 512)
    return raw[510:] == b"\x55\xaa" and any(
        raw[446 + 16 * number + 4] == _PROTECTIVE for number in range(4)
    )


def _gpt_at(disk: Volume, sector: int, place: int) -> Table | None:
    if place < sector or place + sector > disk.size:
        return None
    raw = read(disk, place, sector)
    if raw[:8] != b"EFI PART":
        return None
    length, checksum = struct.unpack_from("<II", raw, 12)
    first_entry, count, size, entries_sum = struct.unpack_from("<QIII", raw, 72)
    if not 92 <= length <= sector:
        return None
    if zlib.crc32(raw[:16] + bytes(4) + raw[20:length]) != checksum:
        return None
    if size < 128 or size > 4096 or count > _ENTRIES_LIMIT:
        return None
    problems = []
    entries = read(disk, first_entry * sector, count * size)
    if zlib.crc32(entries) != entries_sum:
        problems.append("the entries of the GPT have a wrong checksum")
    partitions = [
        one
        for number in range(count)
        if (one := _gpt_entry(entries[number * size : (number + 1) * size], number + 1, sector))
    ]
    uuid = str(UUID(bytes_le=raw[56:72]))
    return Table("gpt", uuid, partitions, problems)


def _gpt_entry(raw: bytes, number: int, sector: int) -> Partition | None:
    if not any(raw[:16]):
        return None
    first, last = struct.unpack_from("<QQ", raw, 32)
    if last < first:
        return None
    name = raw[56:128].decode("utf-16-le", "replace").split("\0")[0]
    type_ = str(UUID(bytes_le=raw[:16]))
    return Partition(number, first * sector, (last - first + 1) * sector, type_, name)


def dos(disk: Volume) -> Table | None:
    """The MBR of a disk, with its logical partitions; None if there is none."""
    raw = head(disk, 512)
    entries = _mbr_entries(raw)
    if entries is None or not any(entry.size for entry in entries):
        return None
    partitions: list[Partition] = []
    problems: list[str] = []
    for number, entry in enumerate(entries, 1):
        if not entry.size or not entry.type:
            continue
        one = entry.partition(number, 0)
        partitions.append(one)
        if one.extended:
            partitions += _logical(disk, one.start, problems)
    return Table("dos", f"{struct.unpack_from('<I', raw, 440)[0]:08x}", partitions, problems)


class _Entry(NamedTuple):
    flag: int
    type: int
    start: int
    size: int

    def partition(self, number: int, base: int) -> Partition:
        extended = self.type in _EXTENDED
        start = base + self.start * 512
        return Partition(number, start, self.size * 512, f"{self.type:02x}", extended=extended)


def _mbr_entries(raw: bytes) -> list[_Entry] | None:
    if raw[510:512] != b"\x55\xaa":
        return None
    entries = [
        _Entry(*struct.unpack_from("<BxxxBxxxII", raw, 446 + 16 * number)) for number in range(4)
    ]
    if any(entry.flag not in (0, 0x80) for entry in entries):
        return None
    if any(entry.size and not entry.start for entry in entries):
        return None
    return entries


def _logical(disk: Volume, base: int, problems: list[str]) -> list[Partition]:
    """The chain of logical partitions: each link has one, and the place of the next."""
    found: list[Partition] = []
    seen: set[int] = set()
    place = base
    while place not in seen and len(seen) < _LOGICAL_LIMIT:
        seen.add(place)
        if place + 512 > disk.size:
            problems.append("the chain of logical partitions leads beyond the end of the disk")
            break
        entries = _mbr_entries(read(disk, place, 512))
        if entries is None:
            problems.append("the chain of logical partitions is broken")
            break
        following = None
        for entry in entries[:2]:
            if not entry.size or not entry.type:
                continue
            if entry.type in _EXTENDED:
                following = base + entry.start * 512
            else:
                found.append(entry.partition(5 + len(found), place))
        if following is None:
            return found
        place = following
    else:
        problems.append("the chain of logical partitions runs in a circle")
    return found
