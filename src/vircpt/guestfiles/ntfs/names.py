"""Names in directories of NTFS (index $I30), and what FILE_NAME and reparse points hold. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from vircpt.guestfiles.entries import Kind
from vircpt.guestfiles.source import Damaged

_DOS = 2
_SUB_NODE, _LAST = 1, 2
_EPOCH = 116444736000000000
"""1970 in units of 100 ns since 1601."""

_SYMLINK, _MOUNT_POINT, _LX_SYMLINK = 0xA000000C, 0xA0000003, 0xA000001D
_LX = {
    0x80000023: Kind.SOCKET,
    0x80000024: Kind.FIFO,
    0x80000025: Kind.CHARACTER_DEVICE,
    0x80000026: Kind.BLOCK_DEVICE,
}


class Name(NamedTuple):
    """A name, and the record that it is of; `sequence` has to be the record's."""

    record: int
    sequence: int
    name: bytes


class Node(NamedTuple):
    """One block of an index: names in it, and the blocks below."""

    names: list[Name]
    below: list[int]


def nanoseconds(time: int) -> int:
    """Since 1970, from NTFS's time."""
    return (time - _EPOCH) * 100


def text(raw: bytes) -> bytes:
    """UTF-8 of NTFS's UTF-16; halves of pairs are kept."""
    return raw.decode("utf-16-le", "surrogatepass").encode("utf-8", "surrogatepass")


def node(raw: bytes | bytearray, header: int) -> Node:
    """The entries behind an index header; raises Damaged."""
    start, end = struct.unpack_from("<II", raw, header)
    at, end = header + start, min(header + end, len(raw))
    names: list[Name] = []
    below: list[int] = []
    while at + 16 <= end:
        reference, length, key, flags = struct.unpack_from("<QHHH", raw, at)
        if length < 16 or at + length > end:
            raise Damaged("an index of NTFS makes no sense")
        if flags & _SUB_NODE:
            below.append(struct.unpack_from("<Q", raw, at + length - 8)[0])
        if flags & _LAST:
            return Node(names, below)
        if key >= 66 and raw[at + 16 + 65] != _DOS:
            size = 2 * raw[at + 16 + 64]
            name = text(bytes(raw[at + 82 : at + 82 + size]))
            names.append(Name(reference & 0xFFFFFFFFFFFF, reference >> 48, name))
        at += length
    raise Damaged("an index of NTFS has no end")


class Reparse(NamedTuple):
    """What a reparse point makes of a file; `readable` if contents are where they always are."""

    kind: Kind | None
    target: bytes | None
    readable: bool


def reparse(raw: bytes) -> Reparse:
    """From the value of the attribute."""
    if len(raw) < 8:
        return Reparse(None, None, False)
    tag = struct.unpack_from("<I", raw)[0]
    if tag in (_SYMLINK, _MOUNT_POINT) and len(raw) >= 20:
        base = 20 if tag == _SYMLINK else 16
        place, size, shown, shown_size = struct.unpack_from("<HHHH", raw, 8)
        if shown_size:
            place, size = shown, shown_size
        even = raw[base + place : base + place + (size & ~1)]
        return Reparse(Kind.SYMLINK, text(even), False)
    if tag == _LX_SYMLINK:
        return Reparse(Kind.SYMLINK, raw[12:], False)
    if tag in _LX:
        return Reparse(_LX[tag], None, False)
    return Reparse(None, None, False)


def links(values: Iterator[bytes]) -> int:
    """How many names that are no mere DOS names a file has, by its FILE_NAME attributes."""
    return max(1, sum(1 for value in values if len(value) > 65 and value[65] != _DOS))
