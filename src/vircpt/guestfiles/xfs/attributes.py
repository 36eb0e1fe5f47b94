"""Extended attributes of XFS: inside of the inode, in leaves, and values in blocks of their own."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from vircpt.guestfiles.source import Damaged

_ROOT, _SECURE, _PARENT = 0x2, 0x4, 0x8
_LOCAL_VALUE = 0x1
_VALUE_LIMIT = 1 << 16

Remote = Callable[[int, int], bytes]
"""Reads a value: number of its first block in the fork, length."""


def _name(flags: int, raw: bytes) -> bytes:
    if flags & _ROOT:
        return b"trusted." + raw
    return (b"security." if flags & _SECURE else b"user.") + raw


def short(raw: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Those inside of the inode."""
    if len(raw) < 4:
        return
    count, at = raw[2], 4
    for _ in range(count):
        if at + 3 > len(raw):
            return
        length, size, flags = raw[at : at + 3]
        at += 3
        if not flags & _PARENT:
            yield _name(flags, raw[at : at + length]), raw[at + length : at + length + size]
        at += length + size


def in_leaf(raw: bytes, remote: Remote) -> Iterator[tuple[bytes, bytes]]:
    """Those of a leaf block; none for other blocks of the fork."""
    magic = struct.unpack_from(">H", raw, 8)[0]
    if magic == 0x3BEE:
        count, entries = struct.unpack_from(">H", raw, 56)[0], 80
    elif magic == 0xFBEE:
        count, entries = struct.unpack_from(">H", raw, 12)[0], 32
    else:
        return
    for number in range(count):
        if entries + 8 * number + 8 > len(raw):
            raise Damaged("extended attributes make no sense")
        place, flags = struct.unpack_from(">4xHB", raw, entries + 8 * number)
        if place + 9 > len(raw):
            raise Damaged("extended attributes make no sense")
        if flags & _PARENT:
            continue
        if flags & _LOCAL_VALUE:
            size, length = struct.unpack_from(">HB", raw, place)
            at = place + 3
            yield _name(flags, raw[at : at + length]), raw[at + length : at + length + size]
        else:
            block, size, length = struct.unpack_from(">IIB", raw, place)
            name = raw[place + 9 : place + 9 + length]
            yield _name(flags, name), remote(block, min(size, _VALUE_LIMIT))
