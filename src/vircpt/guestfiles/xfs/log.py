"""Whether the log of XFS needs recovery: whether its last record says "unmounted"."""

from __future__ import annotations

import struct

from vircpt.guestfiles.source import Source, read
from vircpt.guestfiles.xfs.superblock import Super

_SECTOR = 512
_MAGIC = 0xFEEDBABE
_UNMOUNT = 0x20
_BACK = 2048
"""Sectors: a record has at most 256 KiB, and some headers."""
_QUIET = 8
"""Sectors of log left by a freeze: one record that holds the superblock alone."""


def why_dirty(source: Source, found: Super) -> str | None:
    """Why the log needs recovery; None if it does not, or if there is nothing but what a
    frozen file system leaves there."""
    if not found.log_start:
        return "its log lies on another device, and was not looked at"
    start, sectors = found.block_place(found.log_start), found.log_size // _SECTOR
    if sectors < 2 or start + found.log_size > source.size:
        return "its log makes no sense"
    head = _head(source, start, sectors)
    low = max(0, head - _BACK)
    raw = read(source, start + low * _SECTOR, (head - low) * _SECTOR)
    for at in range(len(raw) - _SECTOR, -1, -_SECTOR):
        if struct.unpack_from(">I", raw, at)[0] == _MAGIC:
            return _judge(raw[at:], low + at // _SECTOR, head, sectors)
    return "its log has no record that makes sense"


def _head(source: Source, start: int, sectors: int) -> int:
    """The sector behind the last one written: the first of an older cycle than sector 0."""

    def cycle(sector: int) -> int:
        first, second = struct.unpack_from(">II", read(source, start + sector * _SECTOR, 8))
        return int(second if first == _MAGIC else first)

    newest = cycle(0)
    low, high = 0, sectors
    while high - low > 1:
        middle = (low + high) // 2
        if cycle(middle) == newest:
            low = middle
        else:
            high = middle
    return high


def _judge(raw: bytes, sector: int, head: int, sectors: int) -> str | None:
    version, length = struct.unpack_from(">II", raw, 8)
    tail = struct.unpack_from(">Q", raw, 24)[0] & 0xFFFFFFFF
    operations = struct.unpack_from(">I", raw, 40)[0]
    size = struct.unpack_from(">I", raw, 320)[0]
    headers = -(-size // 32768) if version == 2 and size > 32768 else 1
    body = raw[headers * _SECTOR : headers * _SECTOR + 12]
    whole = sector + headers + -(-length // _SECTOR) == head
    if whole and operations == 1 and len(body) == 12 and body[9] & _UNMOUNT:
        return None
    if whole and (head - tail) % sectors <= _QUIET:
        return None
    return "the log needs recovery"
