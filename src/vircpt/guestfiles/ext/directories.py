"""Names in directories of ext: linear, hashed and inline."""

from __future__ import annotations

import struct
from typing import NamedTuple

_HEAD = struct.Struct("<IHBB")


class Name(NamedTuple):
    """A name and the inode that it is of."""

    inode: int
    name: bytes


def in_blocks(raw: bytes, block_size: int) -> tuple[list[Name], bool]:
    """Names in blocks of a directory, and whether some made no sense. The inner nodes of a
    hashed directory look like unused entries."""
    names: list[Name] = []
    damaged = False
    for start in range(0, len(raw), block_size):
        damaged |= _scan(raw, start, min(start + block_size, len(raw)), names)
    return names, damaged


def inline(raw: bytes) -> tuple[list[Name], bool]:
    """Names in an inode: the parent's number, then entries; those of the attribute follow."""
    names: list[Name] = []
    damaged = _scan(raw, 4, min(60, len(raw)), names)
    if len(raw) > 60:
        damaged |= _scan(raw, 60, len(raw), names)
    return names, damaged


def _scan(raw: bytes, at: int, end: int, names: list[Name]) -> bool:
    unpack = _HEAD.unpack_from
    add = names.append
    while at + 8 <= end:
        inode, length, name_length, _ = unpack(raw, at)
        if length < 8 or length & 3 or at + length > end:
            if length not in (0, 65532, 65535) or end - at < 65532:
                return True
            length = end - at  # blocks of 64 KiB: the field is too small
        if inode and name_length:
            if name_length + 8 > length:
                return True
            name = raw[at + 8 : at + 8 + name_length]
            if name != b"." and name != b"..":
                add(Name(inode, name))
        at += length
    return False
