"""Which inodes of an ext file system lie, or have blocks, in bytes that were touched.

One pass over the inode tables, in order, with as little Python for each inode as possible.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vircpt.guestfiles.ext import superblock
from vircpt.guestfiles.ext.inodes import EXTENTS, INLINE
from vircpt.guestfiles.intervals import Intervals
from vircpt.guestfiles.source import Damaged, read
from vircpt.guestfiles.tree import Sieve

if TYPE_CHECKING:
    from vircpt.guestfiles.ext.filesystem import Ext

_CHUNK = 1 << 20
_FIELDS = "<H2xI18xH4xI4x2xHxxHxxxx4xHHI36s4xI10xH8x"
"""mode, size, links, flags; of the extent tree: entries, depth, length, high and low of the
first; the other three; xattr block, low and high."""
_LINK, _DIRECTORY, _FILE = 0xA000, 0x4000, 0x8000


def touched_inodes(ext: Ext, touched: Intervals) -> Sieve:
    """Inodes whose slot, blocks, tree or attributes lie in `touched`; all directories."""
    wanted: set[int] = set()
    directories: set[int] = set()
    check = _Check(ext, touched)
    slot = ext.super.inode_size
    for first, place, raw in _tables(ext):
        for part in touched.within(place, len(raw)):
            low = first + (part.offset - place) // slot
            wanted.update(range(low, first + -(-(part.end - place) // slot)))
        check.chunk(first, raw, wanted, directories)
    return Sieve(wanted, directories)


def _tables(ext: Ext) -> Iterator[tuple[int, int, bytes]]:
    """First inode, place and bytes of each piece of the inode tables that may be in use."""
    slot, per_group = ext.super.inode_size, ext.super.inodes_per_group
    step = _CHUNK // slot
    for group, table in enumerate(ext.groups.tables):
        place = table * ext.super.block_size
        used = min(per_group, ext.groups.used[group])
        for index in range(0, used, step):
            count = min(step, used - index)
            offset = place + index * slot
            try:
                raw = read(ext.source, offset, count * slot)
            except Damaged as error:
                ext.tell(b"", f"inode table of group {group}: {error}")
                break
            yield group * per_group + index + 1, offset, raw


class _Check:
    """Looks at inodes one by one; the way of most files is the short one."""

    def __init__(self, ext: Ext, touched: Intervals) -> None:
        self.ext = ext
        self.touched = touched
        size = ext.super.block_size
        # in blocks; neighbours may come to touch each other, which does no harm
        self.starts = [start // size for start in touched.starts]
        self.ends = [-(-end // size) for end in touched.ends]
        self.values = bool(ext.super.incompat & superblock.EA_INODE)
        slot = ext.super.inode_size
        self.fields = struct.Struct(_FIELDS + f"{slot - 128}x")

    def chunk(self, first: int, raw: bytes, wanted: set[int], directories: set[int]) -> None:
        starts, ends = self.starts, self.ends
        total = len(starts)
        number = first - 1
        for fields in self.fields.iter_unpack(raw):
            number += 1
            mode, _, links, flags, entries, depth, length, high, low, _, acl, _ = fields
            if not links:
                continue
            kind = mode & 0xF000
            if kind == 0x4000:
                directories.add(number)
            if number in wanted:
                continue
            if flags & 0x80000 and depth == 0 and entries == 1 and not acl and not self.values:
                block = high << 32 | low
                at = bisect_right(starts, block)
                if (at and ends[at - 1] > block) or (
                    at < total and starts[at] < block + (length if length <= 32768 else 32768)
                ):
                    wanted.add(number)
            elif self.is_touched(number, kind, fields):
                wanted.add(number)

    def is_touched(self, number: int, kind: int, fields: tuple[int, ...]) -> bool:
        """For those with several extents, a tree, an attribute block, or none of these."""
        _, size, _, flags, entries, depth, _, _, _, _, acl, acl_high = fields
        if not acl and not acl_high and not self.values:
            if kind not in (_FILE, _DIRECTORY, _LINK) or flags & INLINE:
                return False
            if flags & EXTENTS and depth == 0 and entries == 0:
                return False
            if kind == _LINK and not flags & EXTENTS and size < 60:
                return False
        try:
            _, found, data, metadata = self.ext.runs(number)
        except Damaged:
            return True
        if found.why:
            return True
        return self.touched.touches_any(metadata) or self.touched.touches_any(data)
