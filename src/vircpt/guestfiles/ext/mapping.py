"""Where the blocks of an ext inode lie: extent trees, and indirect blocks."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable
from typing import NamedTuple

_MAGIC = 0xF30A
_DEPTH = 5
_PIECES = 2_000_000
"""At most so many pieces of one file are taken; more can't be in a real one of many TiB."""

ReadBlock = Callable[[int], bytes]


class Piece(NamedTuple):
    """`length` blocks of the file from `logical` lie at block `physical`."""

    logical: int
    physical: int
    length: int
    written: bool


class Mapping(NamedTuple):
    """All pieces, and the blocks that hold the mapping itself; `why` if it is damaged."""

    pieces: list[Piece]
    blocks: list[int]
    why: str | None


class _Walk:
    """One walk through the tree of one inode."""

    def __init__(self, read_block: ReadBlock, total: int) -> None:
        self.read_block = read_block
        self.total = total
        self.pieces: list[Piece] = []
        self.blocks: list[int] = []
        self.seen: set[int] = set()
        self.why: str | None = None

    def enter(self, block: int) -> bytes | None:
        """The content of a block of the tree, noted as one."""
        if block in self.seen or not 0 < block < self.total or len(self.pieces) > _PIECES:
            self.why = "its tree of blocks makes no sense"
            return None
        self.seen.add(block)
        self.blocks.append(block)
        return self.read_block(block)

    def add(self, logical: int, physical: int, count: int, written: bool) -> None:
        if physical <= 0 or physical + count > self.total:
            self.why = "it points beyond the end of the file system"
        else:
            self.pieces.append(Piece(logical, physical, count, written))

    def extents(self, node: bytes, depth: int | None) -> None:
        magic, entries, most, level, _ = struct.unpack_from("<HHHHI", node)
        fits = (len(node) - 12) // 12
        if magic != _MAGIC or entries > min(most, fits) or level > _DEPTH:
            self.why = "its extent tree makes no sense"
            return
        if depth is not None and level != depth:
            self.why = "its extent tree has a wrong depth"
            return
        for at in range(12, 12 + 12 * entries, 12):
            if level == 0:
                logical, count, high, low = struct.unpack_from("<IHHI", node, at)
                written = count <= 32768
                self.add(logical, high << 32 | low, count if written else count - 32768, written)
            else:
                low, high = struct.unpack_from("<4xIH", node, at)
                below = self.enter(high << 32 | low)
                if below is not None:
                    self.extents(below, level - 1)

    def indirect(self, block: int, level: int, logical: int, span: int) -> None:
        """`span` is how many blocks of the file each entry of this block stands for."""
        raw = self.enter(block)
        if raw is None:
            return
        pointers = array("I", raw)
        if not any(pointers):
            return
        for number, pointer in enumerate(pointers):
            if not pointer:
                continue
            if level:
                self.indirect(pointer, level - 1, logical + number * span, span // len(pointers))
            else:
                self.direct(logical + number, pointer)

    def direct(self, logical: int, block: int) -> None:
        if self.pieces:
            last = self.pieces[-1]
            if last.logical + last.length == logical and last.physical + last.length == block:
                self.pieces[-1] = last._replace(length=last.length + 1)
                return
        self.add(logical, block, 1, True)


def by_extents(root: bytes, read_block: ReadBlock, total: int) -> Mapping:
    """`root` is the inode's 60 bytes; `total` the number of blocks of the file system."""
    walk = _Walk(read_block, total)
    walk.extents(root, None)
    return Mapping(walk.pieces, walk.blocks, walk.why)


def by_pointers(root: bytes, read_block: ReadBlock, total: int, block_size: int) -> Mapping:
    """Of ext2 and ext3: 12 blocks, then one, two and three levels of pointers."""
    walk = _Walk(read_block, total)
    pointers = struct.unpack("<15I", root)
    for logical, block in enumerate(pointers[:12]):
        if block:
            walk.direct(logical, block)
    per, logical, span = block_size // 4, 12, 1
    for level, block in enumerate(pointers[12:]):
        if block:
            walk.indirect(block, level, logical, span)
        span *= per
        logical += span
    return Mapping(walk.pieces, walk.blocks, walk.why)
