"""Names in directories of XFS: inside of the inode, and in blocks."""

from __future__ import annotations

import struct
from typing import NamedTuple

from vircpt.guestfiles.source import Damaged

LEAVES_AT = 32 << 30
"""From this file offset on a directory holds hashes, no names."""
_BLOCK = {b"XD2B": 16, b"XDB3": 64}
_DATA = {b"XD2D": 16, b"XDD3": 64}


class Name(NamedTuple):
    """A name and the inode that it is of."""

    inode: int
    name: bytes


def short(raw: bytes, has_type: bool) -> tuple[list[Name], bool]:
    """Names of a directory inside of its inode, and whether they make no sense."""
    if len(raw) < 6:
        return [], True
    count, wide = raw[0], raw[1]
    size = 8 if wide else 4
    at = 2 + size
    names: list[Name] = []
    for _ in range(wide or count):
        if at + 3 > len(raw):
            return names, True
        length = raw[at]
        name = raw[at + 3 : at + 3 + length]
        at += 3 + length + has_type
        number = raw[at : at + size]
        at += size
        if len(number) < size or not length:
            return names, True
        names.append(Name(int.from_bytes(number, "big"), name))
    return names, False


def in_block(raw: bytes, has_type: bool) -> tuple[list[Name], bool]:
    """Names of one directory block, and whether some make no sense."""
    magic = raw[:4]
    at = _BLOCK.get(magic) or _DATA.get(magic)
    if at is None:
        raise Damaged("a block of this directory makes no sense")
    end = len(raw)
    if magic in _BLOCK:
        end -= 8 + 8 * struct.unpack_from(">I", raw, len(raw) - 8)[0]
    names: list[Name] = []
    while at + 12 <= end:
        if raw[at : at + 2] == b"\xff\xff":
            length = struct.unpack_from(">H", raw, at + 2)[0]
            if length < 8 or length & 7:
                return names, True
            at += length
            continue
        length = raw[at + 8]
        size = 11 + length + has_type + 7 & ~7
        if not length or at + size > end:
            return names, True
        name = raw[at + 9 : at + 9 + length]
        if name not in (b".", b".."):
            names.append(Name(int.from_bytes(raw[at : at + 8], "big"), name))
        at += size
    return names, end < at
