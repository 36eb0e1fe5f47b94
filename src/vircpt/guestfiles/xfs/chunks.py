"""All inodes of XFS in the order of the disk: by the inode trees of the allocation groups."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vircpt.guestfiles.source import Damaged

if TYPE_CHECKING:
    from vircpt.guestfiles.xfs.filesystem import Xfs

_PER_CHUNK = 64
_LEVELS = 8


class Chunks:
    """Iterates over (inode number, bytes of the inode) of all that are in use. `seen` holds
    the numbers, divided by 4, that the trees told of."""

    def __init__(self, xfs: Xfs) -> None:
        self.xfs = xfs
        self.seen: set[int] = set()
        self._header = 56 if xfs.super.version == 5 else 16

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        found = self.xfs.super
        for group in range(found.groups):
            try:
                raw = self.xfs.cache.pread(512, found.group_place(group) + 2 * found.sector_size)
                if raw[:4] != b"XAGI":
                    raise Damaged("it has no magic number")
                root, level = struct.unpack_from(">II", raw, 20)
                yield from self._block(group, root, level - 1, set())
            except Damaged as error:
                self.xfs.tell(b"", f"inode tree of group {group}: {error}")

    def _block(
        self, group: int, block: int, level: int, seen: set[int]
    ) -> Iterator[tuple[int, bytes]]:
        if block in seen or not 0 <= level < _LEVELS:
            raise Damaged("an inode tree makes no sense")
        seen.add(block)
        found = self.xfs.super
        raw = self.xfs.cache.pread(
            found.block_size, found.block_place(group << found.group_log | block)
        )
        magic, own_level, count = struct.unpack_from(">4sHH", raw)
        if magic not in (b"IABT", b"IAB3") or own_level != level:
            raise Damaged("a block of an inode tree makes no sense")
        size = 16 if level == 0 else 8
        most = (found.block_size - self._header) // size
        if count > most:
            raise Damaged("a block of an inode tree makes no sense")
        if level:
            for below in struct.unpack_from(f">{count}I", raw, self._header + most * 4):
                yield from self._block(group, below, level - 1, seen)
            return
        for number in range(count):
            yield from self._chunk(
                group, *struct.unpack_from(">IIQ", raw, self._header + 16 * number)
            )

    def _chunk(self, group: int, first: int, counts: int, free: int) -> Iterator[tuple[int, bytes]]:
        """64 inodes, pieces of four of which may be missing (sparse: the upper 16 bits)."""
        found = self.xfs.super
        holes = counts >> 16
        base = (group << found.group_log + found.inodes_log) + first
        size = found.inode_size
        step = 4 if holes else _PER_CHUNK
        for index in range(0, _PER_CHUNK, step):
            if holes >> index // 4 & 1:
                continue
            raw = self.xfs.cache.pread(step * size, found.inode_place(base + index))
            self.seen.update(range(base + index >> 2, base + index + step >> 2))
            for at in range(step):
                if not free >> index + at & 1:
                    yield base + index + at, raw[at * size : (at + 1) * size]
