"""Disks, and what is made of them: slices, concatenations, stripes, mirrors, parity.

Each is a Source that also knows where it lies: `project` turns the dirty bytes of the disks
into its own. Never too few; exactly where `linear` is true.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Protocol

from vircpt.errors import NotSupported
from vircpt.guestfiles.intervals import Intervals, Run
from vircpt.guestfiles.source import Bytes, Damaged, Source, read


class Volume(Source, Protocol):
    """A disk, or anything made of disks."""

    linear: bool
    """It lies in long pieces, each in one place: a dirty cluster there is one here."""

    def project(self, dirty: Mapping[str, Intervals]) -> Intervals:
        """Which of its bytes may lie in dirty bytes of the disks, by disk target. A disk that
        is not in `dirty` is taken as dirty from end to end."""

    def places(self, offset: int, length: int) -> Iterator[tuple[str, int, int]]:
        """Where these bytes lie: disk target, offset, length; all copies, unordered."""


class Disk:
    """A disk of the domain."""

    linear = True

    def __init__(self, target: str, source: Source) -> None:
        self.target = target
        self.size = source.size
        self._source = source

    def pread(self, length: int, offset: int) -> Bytes:
        return self._source.pread(length, offset)

    def project(self, dirty: Mapping[str, Intervals]) -> Intervals:
        found = dirty.get(self.target)
        return Intervals([(0, self.size)]) if found is None else found

    def places(self, offset: int, length: int) -> Iterator[tuple[str, int, int]]:
        yield self.target, offset, length


class Slice:
    """A part of another volume."""

    def __init__(self, parent: Volume, offset: int, size: int) -> None:
        if offset < 0 or size < 0 or offset + size > parent.size:
            raise Damaged(
                "a volume reaches beyond what it lies on",
                why=f"{size} bytes at {offset} of {parent.size}",
            )
        self._parent = parent
        self._offset = offset
        self.size = size
        self.linear = parent.linear

    def pread(self, length: int, offset: int) -> Bytes:
        if offset < 0 or offset + length > self.size:
            raise Damaged("a read beyond the end of a volume", why=f"{offset} of {self.size}")
        return self._parent.pread(length, self._offset + offset)

    def project(self, dirty: Mapping[str, Intervals]) -> Intervals:
        return self._parent.project(dirty).cut(self._offset, self.size)

    def places(self, offset: int, length: int) -> Iterator[tuple[str, int, int]]:
        return self._parent.places(self._offset + offset, length)


class Joined:
    """Volumes one after the other."""

    def __init__(self, parts: Sequence[Volume]) -> None:
        self._parts = tuple(parts)
        self.starts = list(accumulate((part.size for part in parts), initial=0))
        self.size = self.starts.pop()
        self.linear = all(part.linear for part in parts)

    def pread(self, length: int, offset: int) -> Bytes:
        pieces = [
            bytes(part.pread(count, start)) for part, start, count in self._split(offset, length)
        ]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def project(self, dirty: Mapping[str, Intervals]) -> Intervals:
        return Intervals(
            (start + offset, length)
            for start, part in zip(self.starts, self._parts, strict=True)
            for offset, length in part.project(dirty)
        )

    def places(self, offset: int, length: int) -> Iterator[tuple[str, int, int]]:
        for part, start, count in self._split(offset, length):
            yield from part.places(start, count)

    def _split(self, offset: int, length: int) -> Iterator[tuple[Volume, int, int]]:
        if offset < 0 or offset + length > self.size:
            raise Damaged("a read beyond the end of a volume", why=f"{offset} of {self.size}")
        at = bisect_right(self.starts, offset) - 1
        while length > 0:
            inside = offset - self.starts[at]
            count = min(length, self._parts[at].size - inside)
            if count > 0:
                yield self._parts[at], inside, count
            offset += count
            length -= count
            at += 1


class Striped:
    """Chunks dealt out to volumes in turn (RAID 0, striped LVs); whole stripes only."""

    linear = False

    def __init__(self, legs: Sequence[Volume], chunk: int) -> None:
        if chunk <= 0 or not legs:
            raise Damaged("stripes without width")
        self._legs = tuple(legs)
        self._chunk = chunk
        self.size = min(leg.size for leg in legs) // chunk * chunk * len(legs)

    def pread(self, length: int, offset: int) -> Bytes:
        return b"".join(
            bytes(leg.pread(count, start)) for leg, start, count in self._split(offset, length)
        )

    def project(self, dirty: Mapping[str, Intervals]) -> Intervals:
        return Intervals(
            run
            for number, leg in enumerate(self._legs)
            for offset, length in leg.project(dirty)
            for run in self._seen_from(number, offset, length)
        )

    def places(self, offset: int, length: int) -> Iterator[tuple[str, int, int]]:
        for leg, start, count in self._split(offset, length):
            yield from leg.places(start, count)

    def _seen_from(self, number: int, offset: int, length: int) -> Iterator[Run]:
        chunk, count = self._chunk, len(self._legs)
        first, last = offset // chunk, (offset + length - 1) // chunk
        if last - first > 2:  # whole rows in the middle: all legs, to keep the set small
            yield Run((first + 1) * chunk * count, (last - first - 1) * chunk * count)
            ends: tuple[int, ...] = (first, last)
        else:
            ends = tuple(range(first, last + 1))
        for row in ends:
            start = max(offset, row * chunk)
            stop = min(offset + length, (row + 1) * chunk)
            base = (row * count + number) * chunk - row * chunk
            if (row + 1) * chunk * count <= self.size:
                yield Run(base + start, stop - start)

    def _split(self, offset: int, length: int) -> Iterator[tuple[Volume, int, int]]:
        if offset < 0 or offset + length > self.size:
            raise Damaged("a read beyond the end of a volume", why=f"{offset} of {self.size}")
        while length > 0:
            number, inside = divmod(offset, self._chunk)
            row, leg = divmod(number, len(self._legs))
            count = min(length, self._chunk - inside)
            yield self._legs[leg], row * self._chunk + inside, count
            offset += count
            length -= count


class Mirror:
    """The same bytes on several volumes; read from the first."""

    linear = False

    def __init__(self, copies: Sequence[Volume], size: int | None = None) -> None:
        self._copies = tuple(copies)
        smallest = min(copy.size for copy in copies)
        self.size = smallest if size is None else min(size, smallest)
        # one copy is all there is to know: as good as a slice
        self.linear = len(self._copies) == 1 and copies[0].linear

    def pread(self, length: int, offset: int) -> Bytes:
        return self._copies[0].pread(length, offset)

    def project(self, dirty: Mapping[str, Intervals]) -> Intervals:
        every = [run for copy in self._copies for run in copy.project(dirty)]
        return Intervals(every).cut(0, self.size)

    def places(self, offset: int, length: int) -> Iterator[tuple[str, int, int]]:
        for copy in self._copies:
            yield from copy.places(offset, length)


class Unreadable:
    """A volume whose bytes can't be put together here; all of it is dirty if any of it is."""

    linear = False

    def __init__(self, parts: Sequence[Volume], size: int, why: str) -> None:
        self._parts = tuple(parts)
        self.size = size
        self._why = why

    def pread(self, length: int, offset: int) -> Bytes:
        raise NotSupported("a volume that can't be read", why=self._why)

    def project(self, dirty: Mapping[str, Intervals]) -> Intervals:
        touched = any(part.project(dirty).total for part in self._parts)
        return Intervals([(0, self.size)] if touched or not self._parts else [])

    def places(self, offset: int, length: int) -> Iterator[tuple[str, int, int]]:
        for part in self._parts:
            yield from part.places(0, part.size)


def head(volume: Source, length: int, offset: int = 0) -> bytes:
    """Bytes for recognising what is there, filled with zeroes beyond the end."""
    available = max(0, min(length, volume.size - offset))
    return read(volume, offset, available).ljust(length, b"\0")
