"""Chains of clusters in a file allocation table."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import NamedTuple

from vircpt.guestfiles.intervals import Run
from vircpt.guestfiles.source import Cached, Damaged

_PER_CHUNK = 1 << 14
_PIECES = 2_000_000


class Piece(NamedTuple):
    """`length` clusters from cluster `first`, neighbours on the disk."""

    first: int
    length: int


class Table:
    """A file allocation table of 12, 16 or 32 bits at `place`, for clusters 2 to `last`."""

    def __init__(self, cache: Cached, place: int, bits: int, last: int) -> None:
        self._cache = cache
        self._place = place
        self._bits = bits
        self._last = last
        self._chunk: tuple[int, array[int]] = (-1, array("I"))

    def next(self, cluster: int) -> int | None:
        """The following cluster, None at the end of a chain; raises Damaged."""
        value = self._value(cluster)
        if 2 <= value <= self._last:
            return value
        if value >= (1 << min(self._bits, 28)) - 8:
            return None
        raise Damaged("a chain of clusters leads nowhere")

    def is_free(self, cluster: int) -> bool:
        """Whether nobody uses it."""
        return self._value(cluster) == 0

    def pieces(self, first: int) -> Iterator[Piece]:
        """The chain from a cluster; raises Damaged if it makes no sense, after what does."""
        if not 2 <= first <= self._last:
            raise Damaged("a chain of clusters begins nowhere")
        start, length, total = first, 1, 1
        cluster = self.next(first)
        while cluster is not None:
            total += 1
            if total > self._last:
                raise Damaged("a chain of clusters runs in a circle")
            if cluster == start + length:
                length += 1
            else:
                yield Piece(start, length)
                start, length = cluster, 1
            cluster = self.next(cluster)
        yield Piece(start, length)

    def run(self, piece: Piece) -> Run:
        """Where the table's own entries for these clusters lie."""
        first = piece.first * self._bits // 8
        end = -(-(piece.first + piece.length) * self._bits // 8)
        return Run(self._place + first, end - first)

    def used(self) -> int:
        """Clusters in use."""
        return sum(1 for cluster in range(2, self._last + 1) if not self.is_free(cluster))

    def _value(self, cluster: int) -> int:
        number, index = divmod(cluster, _PER_CHUNK)
        if self._chunk[0] != number:
            self._chunk = number, self._load(number)
        values = self._chunk[1]
        if index >= len(values):
            raise Damaged("a cluster beyond the end of the table")
        return values[index]

    def _load(self, number: int) -> array[int]:
        first = number * _PER_CHUNK
        count = min(_PER_CHUNK, self._last + 1 - first)
        length = -(-count * self._bits // 8)
        raw = self._cache.pread(length, self._place + first * self._bits // 8)
        if self._bits == 32:
            return array("I", (value & 0x0FFFFFFF for value in array("I", raw)))
        if self._bits == 16:
            return array("I", array("H", raw))
        return array("I", (_twelve(raw, index) for index in range(count)))


def _twelve(raw: bytes, index: int) -> int:
    at = index * 3 // 2
    word = int.from_bytes(raw[at : at + 2], "little")
    return word >> 4 if index & 1 else word & 0xFFF
