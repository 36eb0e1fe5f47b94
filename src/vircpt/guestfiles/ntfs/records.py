"""MFT records and their attributes. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from vircpt.guestfiles.source import Damaged

STANDARD, LIST, FILE_NAME, VOLUME_NAME, VOLUME_INFO = 0x10, 0x20, 0x30, 0x60, 0x70
DATA, INDEX_ROOT, INDEX_ALLOCATION, BITMAP, REPARSE = 0x80, 0x90, 0xA0, 0xB0, 0xC0
_END = b"\xff\xff\xff\xff"
COMPRESSED, ENCRYPTED = 0x00FF, 0x4000
_HEAD = struct.Struct("<IIBBHHH")
_RESIDENT = struct.Struct("<IH")
_PLACES = struct.Struct("<QQHB5xQQQ")
_QUICK = struct.Struct("<IIB")
_RUNS_LIMIT = 2_000_000


class Piece(NamedTuple):
    """`length` clusters from `vcn` lie at `lcn`; None if they are a hole."""

    vcn: int
    lcn: int | None
    length: int


class Attribute(NamedTuple):
    """`value` is None for one that lies outside of the record: then `pieces` says where."""

    type: int
    name: str
    flags: int
    value: bytes | None
    size: int
    initialised: int
    unit: int
    """Clusters that are compressed together, as a power of 2; 0 if it is not compressed."""
    first: int
    """Of the clusters, if several attributes make up one."""
    pieces: list[Piece]


class Record(NamedTuple):
    """One MFT record, with its fixups applied."""

    raw: bytes
    sequence: int
    in_use: bool
    is_directory: bool
    base: int
    """Of which it is an extension; 0 if of none."""
    first: int


def fixed(raw: bytes, magic: bytes) -> bytearray:
    """A record or index block with the last bytes of its sectors put back; raises Damaged."""
    if raw[:4] != magic:
        raise Damaged(f"a block of NTFS is no {magic.decode()}")
    place, count = struct.unpack_from("<HH", raw, 4)
    if not count or place + 2 * count > len(raw) or (count - 1) * 512 > len(raw):
        raise Damaged("the fixups of an NTFS block make no sense")
    whole = bytearray(raw)
    check = raw[place : place + 2]
    for number in range(1, count):
        end = number * 512
        if raw[end - 2 : end] != check:
            raise Damaged("a block of NTFS was written in part only")
        whole[end - 2 : end] = raw[place + 2 * number : place + 2 * number + 2]
    return whole


def parse(raw: bytes) -> Record:
    """Raises Damaged."""
    whole = fixed(raw, b"FILE")
    sequence, _, first, flags = struct.unpack_from("<HHHH", whole, 16)
    base = struct.unpack_from("<Q", whole, 32)[0] & 0xFFFFFFFFFFFF
    return Record(bytes(whole), sequence, bool(flags & 1), bool(flags & 2), base, first)


def attributes(record: Record) -> Iterator[Attribute]:
    """Raises Damaged where they make no sense."""
    raw, at = record.raw, record.first
    while at + 4 <= len(raw) and raw[at : at + 4] != _END and at + 16 <= len(raw):
        type_, length, outside, name_length, name_place, flags, _ = _HEAD.unpack_from(raw, at)
        if length < 24 or at + length > len(raw):
            raise Damaged("an attribute of NTFS makes no sense")
        name = ""
        if name_length:
            start = at + name_place
            name = raw[start : start + 2 * name_length].decode("utf-16-le", "surrogatepass")
        if outside:
            yield _outside(raw, at, length, type_, name, flags)
        else:
            size, place = _RESIDENT.unpack_from(raw, at + 16)
            if place + size > length:
                raise Damaged("a value of NTFS is longer than its attribute")
            value = raw[at + place : at + place + size]
            yield Attribute(type_, name, flags, value, size, size, 0, 0, [])
        at += length
    if raw[at : at + 4] != _END:
        raise Damaged("an NTFS record without an end")


def _outside(raw: bytes, at: int, length: int, type_: int, name: str, flags: int) -> Attribute:
    if length < 64:
        raise Damaged("an attribute of NTFS makes no sense")
    first, _, place, unit, _, size, initialised = _PLACES.unpack_from(raw, at + 16)
    pieces = _pieces(raw[at + place : at + length], first)
    unit = unit if flags & COMPRESSED else 0
    return Attribute(type_, name, flags, None, size, initialised, min(unit, 16), first, pieces)


def _pieces(raw: bytes, vcn: int) -> list[Piece]:
    """Runs: lengths and differences of places, in as few bytes as they need."""
    found: list[Piece] = []
    at = lcn = 0
    while at < len(raw) and raw[at]:
        head = raw[at]
        count, width = head & 0xF, head >> 4
        at += 1
        length = int.from_bytes(raw[at : at + count], "little")
        at += count
        if not 0 < length < 1 << 48 or width > 8 or len(found) > _RUNS_LIMIT:
            raise Damaged("the runs of an NTFS attribute make no sense")
        if width:
            lcn += int.from_bytes(raw[at : at + width], "little", signed=True)
            at += width
            if lcn < 0:
                raise Damaged("the runs of an NTFS attribute make no sense")
        found.append(Piece(vcn, lcn if width else None, length))
        vcn += length
    return found


def quick_runs(raw: bytes | bytearray) -> list[tuple[int, int]] | None:
    """Clusters (first, count) of all attributes outside of a record whose fixups are applied;
    None if it has extension records, or is damaged: then it has to be looked at with care.
    Most files go this way."""
    found: list[tuple[int, int]] = []
    at = raw[20] | raw[21] << 8
    end = len(raw)
    while at + 16 <= end:
        type_, length, outside = _QUICK.unpack_from(raw, at)
        if type_ == 0xFFFFFFFF:
            return found
        if type_ == LIST or length < 24 or at + length > end:
            return None
        if outside:
            if length < 64:
                return None
            _quick_pieces(raw, at + (raw[at + 32] | raw[at + 33] << 8), at + length, found)
        at += length
    return found if raw[at : at + 4] == _END else None


def _quick_pieces(raw: bytes | bytearray, at: int, end: int, found: list[tuple[int, int]]) -> None:
    lcn = 0
    while at < end and raw[at]:
        count, width = raw[at] & 0xF, raw[at] >> 4
        middle = at + 1 + count
        at = middle + width
        if width:
            lcn += int.from_bytes(raw[middle:at], "little", signed=True)
            found.append((lcn, int.from_bytes(raw[middle - count : middle], "little")))


def listed(raw: bytes) -> Iterator[tuple[int, int]]:
    """Type and record number of each entry of an attribute list."""
    at = 0
    while at + 26 <= len(raw):
        type_, length = struct.unpack_from("<IH", raw, at)
        if length < 26:
            return
        yield type_, struct.unpack_from("<Q", raw, at + 16)[0] & 0xFFFFFFFFFFFF
        at += length
