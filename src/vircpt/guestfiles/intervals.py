"""Sets of bytes as sorted intervals: what is dirty, what a file occupies. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Run(NamedTuple):
    """`length` bytes from `offset`."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        return self.offset + self.length


class Intervals:
    """Disjoint, sorted, never touching half-open intervals of bytes: [starts[i], ends[i])."""

    __slots__ = ("ends", "starts")

    def __init__(self, runs: Iterable[tuple[int, int]] = ()) -> None:
        """From (offset, length) pairs in any order, which may overlap; empty ones are dropped."""
        self.starts: list[int] = []
        self.ends: list[int] = []
        for offset, length in sorted(runs):
            if length <= 0:
                continue
            if self.ends and offset <= self.ends[-1]:
                self.ends[-1] = max(self.ends[-1], offset + length)
            else:
                self.starts.append(offset)
                self.ends.append(offset + length)

    def __iter__(self) -> Iterator[Run]:
        """As (offset, length), in order."""
        for start, end in zip(self.starts, self.ends, strict=True):
            yield Run(start, end - start)

    def __len__(self) -> int:
        return len(self.starts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Intervals):
            return NotImplemented
        return self.starts == other.starts and self.ends == other.ends

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Intervals({[tuple(run) for run in self]})"

    @property
    def total(self) -> int:
        """Bytes in all of them."""
        return sum(self.ends) - sum(self.starts)

    def touches(self, offset: int, length: int) -> bool:
        """Whether any byte of the run is in the set."""
        at = bisect_right(self.starts, offset)
        if at and self.ends[at - 1] > offset:
            return length > 0
        return at < len(self.starts) and self.starts[at] < offset + length

    def touches_any(self, runs: Iterable[tuple[int, int]]) -> bool:
        """Whether any byte of any of the runs is in the set."""
        return any(self.touches(offset, length) for offset, length in runs)

    def within(self, offset: int, length: int) -> Iterator[Run]:
        """The parts of the set that lie in the run, cut to it."""
        end = offset + length
        at = bisect_right(self.ends, offset)
        while at < len(self.starts) and self.starts[at] < end:
            start = max(self.starts[at], offset)
            stop = min(self.ends[at], end)
            if stop > start:
                yield Run(start, stop - start)
            at += 1

    def overlap(self, runs: Iterable[tuple[int, int]]) -> int:
        """Bytes of the runs that are in the set; runs that overlap each other count once."""
        return sum(
            part.length
            for offset, length in Intervals(runs)
            for part in self.within(offset, length)
        )

    def cut(self, offset: int, length: int, to: int = 0) -> Intervals:
        """What lies in the run, moved so that `offset` becomes `to`."""
        return Intervals(
            (part.offset - offset + to, part.length) for part in self.within(offset, length)
        )

    def without(self, other: Intervals) -> Intervals:
        """What is here and not there."""
        left: list[tuple[int, int]] = []
        for offset, length in self:
            start = offset
            for part in other.within(offset, length):
                left.append((start, part.offset - start))
                start = part.end
            left.append((start, offset + length - start))
        return Intervals(left)

    def union(self, *others: Iterable[tuple[int, int]]) -> Intervals:
        """What is in any of them."""
        return Intervals([run for each in (self, *others) for run in each])

    def around(self, offset: int) -> Run | None:
        """The interval that holds the byte, if one does."""
        at = bisect_left(self.ends, offset + 1)
        if at < len(self.starts) and self.starts[at] <= offset:
            return Run(self.starts[at], self.ends[at] - self.starts[at])
        return None
