"""The B-trees of btrfs: blocks, searches, and walks over all leaves."""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

from vircpt.guestfiles.btrfs.chunks import Chunks
from vircpt.guestfiles.intervals import Run
from vircpt.guestfiles.source import Damaged, Source, read

Key = tuple[int, int, int]
"""Object, type, offset."""
_HEADER = 101
_ITEM = struct.Struct("<QBQII")
_POINTER = struct.Struct("<QBQQQ")
_LEVELS = 8
_KEPT = 256


class Item(NamedTuple):
    """An item of a leaf."""

    key: Key
    value: bytes


class Block(NamedTuple):
    """A block of a tree: for a leaf `items` are (key..., place of the value, its length), for
    others (key..., address, generation)."""

    address: int
    level: int
    items: list[tuple[int, int, int, int, int]]
    raw: bytes


class Trees:
    """Reads blocks of trees by logical address."""

    def __init__(self, source: Source, chunks: Chunks, node: int) -> None:
        self._source = source
        self._chunks = chunks
        self._node = node
        self._kept: OrderedDict[int, Block] = OrderedDict()

    def places(self, block: Block) -> list[Run]:
        """Where all copies of a block lie."""
        return self._chunks.runs(block.address, self._node)

    def read(self, address: int, length: int) -> bytes:
        """Bytes by logical address, of the first copy that is there. Raises Damaged."""
        pieces = []
        for _, copies in self._chunks.copies(address, length):
            if not copies:
                raise Damaged("a device of btrfs is missing")
            pieces.append(read(self._source, *copies[0]))
        return b"".join(pieces)

    def block(self, address: int, keep: bool = True) -> Block:
        """Raises Damaged."""
        found = self._kept.get(address)
        if found is None:
            found = self._parse(address)
            if keep:
                self._kept[address] = found
                if len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(address)
        return found

    def _parse(self, address: int) -> Block:
        raw = self.read(address, self._node)
        own, count, level = struct.unpack_from("<Q40xIB", raw, 48)
        form = _POINTER if level else _ITEM
        if own != address or level >= _LEVELS or _HEADER + count * form.size > len(raw):
            raise Damaged("a block of a btrfs tree makes no sense", why=hex(address))
        items = list(form.iter_unpack(raw[_HEADER : _HEADER + count * form.size]))
        return Block(address, level, items, raw)

    def value(self, block: Block, item: tuple[int, int, int, int, int]) -> bytes:
        """Of an item of a leaf. Raises Damaged."""
        start, size = _HEADER + item[3], item[4]
        if start + size > len(block.raw):
            raise Damaged("an item of btrfs makes no sense")
        return block.raw[start : start + size]

    def leaves(self, root: int) -> Iterator[Block]:
        """All leaves in order. What can't be read raises Damaged, after which it ends."""
        yield from self._leaves(root, None)

    def _leaves(self, address: int, level: int | None) -> Iterator[Block]:
        block = self.block(address, keep=False)
        if level is not None and block.level != level:
            raise Damaged("a btrfs tree with a wrong level")
        if block.level == 0:
            yield block
            return
        for *_, below, _ in block.items:
            yield from self._leaves(below, block.level - 1)

    def items(self, root: int, first: Key, last: Key) -> Iterator[tuple[Block, Item]]:
        """Items from key `first` to key `last`, with the leaf that each is in."""
        yield from self._items(root, None, first, last)

    def _items(
        self, address: int, level: int | None, first: Key, last: Key
    ) -> Iterator[tuple[Block, Item]]:
        block = self.block(address)
        if level is not None and block.level != level:
            raise Damaged("a btrfs tree with a wrong level")
        at = bisect_right(block.items, first, key=lambda item: item[:3])
        # the key before may be equal, or its subtree may hold what is looked for
        for item in block.items[max(0, at - 1) :]:
            key = item[:3]
            if key > last:
                return
            if block.level:
                yield from self._items(item[3], block.level - 1, first, last)
            elif key >= first:
                yield block, Item(key, self.value(block, item))
