"""From the logical addresses of btrfs to places on its devices: all copies, stripes, parity."""

from __future__ import annotations

import struct
from bisect import bisect_right, insort
from collections.abc import Iterator
from typing import NamedTuple

from vircpt.guestfiles.intervals import Run
from vircpt.guestfiles.source import Damaged

_RAID0, _RAID10, _RAID5, _RAID6 = 0x8, 0x40, 0x80, 0x100
_HEAD = struct.Struct("<4Q3IHH")
_CHUNK_ITEM = 228
_STRIPES_LIMIT = 4096
KEY = struct.Struct("<QBQ")


class Stripe(NamedTuple):
    """Where a copy or a stripe begins: device, and offset on it."""

    device: int
    offset: int


class Chunk(NamedTuple):
    """`length` bytes from logical address `start`."""

    start: int
    length: int
    stripe_length: int
    profile: int
    copies: int
    stripes: tuple[Stripe, ...]


class Chunks:
    """All chunks. `bases` says where in the volume each device begins."""

    def __init__(self, bases: dict[int, int], size: int) -> None:
        self._bases = bases
        self._size = size
        self._chunks: list[Chunk] = []
        self._starts: list[int] = []

    def add_array(self, raw: bytes) -> None:
        """Those of the superblock; raises Damaged."""
        at = 0
        while at + KEY.size + _HEAD.size <= len(raw):
            _, type_, start = KEY.unpack_from(raw, at)
            if type_ != _CHUNK_ITEM:
                raise Damaged("the superblock of btrfs makes no sense")
            at += KEY.size
            at += self.add(start, raw[at:])

    def add(self, start: int, raw: bytes) -> int:
        """One chunk item; returns its length in bytes. Raises Damaged."""
        length, _, stripe_length, profile, _, _, _, count, copies = _HEAD.unpack_from(raw)
        size: int = _HEAD.size + 32 * count
        if not 0 < count <= _STRIPES_LIMIT or size > len(raw) or not length or not stripe_length:
            raise Damaged("a chunk of btrfs makes no sense")
        stripes = tuple(
            Stripe(*struct.unpack_from("<QQ", raw, _HEAD.size + 32 * number))
            for number in range(count)
        )
        if start not in self._starts[-64:] and self._find(start) is None:
            insort(self._chunks, Chunk(start, length, stripe_length, profile, copies, stripes))
            insort(self._starts, start)
        return size

    def _find(self, logical: int) -> Chunk | None:
        at = bisect_right(self._starts, logical) - 1
        if at < 0:
            return None
        chunk = self._chunks[at]
        return chunk if logical < chunk.start + chunk.length else None

    def copies(self, logical: int, length: int) -> Iterator[tuple[int, list[Run]]]:
        """Piece by piece: its length, and the places of all its copies in the volume, which
        lie on devices that are there. Raises Damaged."""
        while length > 0:
            chunk = self._find(logical)
            if chunk is None:
                raise Damaged("an address of btrfs that is in no chunk", why=hex(logical))
            inside = logical - chunk.start
            count, stripes = _stripes(chunk, inside, min(length, chunk.length - inside))
            yield count, [run for one in stripes if (run := self._run(one, count)) is not None]
            logical += count
            length -= count

    def runs(self, logical: int, length: int) -> list[Run]:
        """Places of all copies. Raises Damaged."""
        return [run for _, copies in self.copies(logical, length) for run in copies]

    def _run(self, stripe: Stripe, length: int) -> Run | None:
        base = self._bases.get(stripe.device)
        if base is None:
            return None
        if base + stripe.offset + length > self._size:
            raise Damaged("a chunk of btrfs lies beyond the end")
        return Run(base + stripe.offset, length)


def _stripes(chunk: Chunk, inside: int, length: int) -> tuple[int, list[Stripe]]:
    """How many bytes lie together, and where each of their copies does."""
    profile, stripes, count = chunk.profile, chunk.stripes, len(chunk.stripes)
    if not profile & (_RAID0 | _RAID10 | _RAID5 | _RAID6):  # single, DUP, RAID 1 and its kin
        return length, [Stripe(one.device, one.offset + inside) for one in stripes]
    number, rest = divmod(inside, chunk.stripe_length)
    length = min(length, chunk.stripe_length - rest)
    if profile & _RAID0:
        row, column = divmod(number, count)
        chosen = [column]
    elif profile & _RAID10:
        copies = max(1, chunk.copies)
        row, group = divmod(number, max(1, count // copies))
        chosen = list(range(group * copies, min(count, (group + 1) * copies)))
    else:
        data = count - (1 if profile & _RAID5 else 2)
        if data < 1:
            raise Damaged("a chunk of btrfs makes no sense")
        row, index = divmod(number, data)
        chosen = [(index + row) % count]
    offset = row * chunk.stripe_length + rest
    return length, [Stripe(stripes[one].device, stripes[one].offset + offset) for one in chosen]
