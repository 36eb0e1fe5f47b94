"""Extents: pure functions on runs of blocks.

NBD answers "block status" per meta context, as runs of (length, flags) that may be cut at
different places in each context. Here they become one list of extents, cut wherever one
of the contexts changes:

    base:allocation   |--data--|------hole+zero------|---data---|
    dirty-bitmap      |---------dirty---------|------clean------|
    merged            |-dirty--|-dirty,zero---|-zero-|--data----|
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

STATE_HOLE = 1
"""NBD: no space is allocated for these blocks (base:allocation, bit 0)."""
STATE_ZERO = 2
"""NBD: these blocks read as zeroes (base:allocation, bit 1)."""
STATE_DIRTY = 1
"""QEMU: these blocks were written (qemu:dirty-bitmap:*, bit 0)."""

Run = tuple[int, int]
"""Length in bytes, and flags."""


class Extent(NamedTuple):
    """A run of blocks that are alike, in bytes. `dirty` is None where no bitmap is known."""

    offset: int
    length: int
    dirty: bool | None
    zero: bool
    allocated: bool

    @property
    def end(self) -> int:
        return self.offset + self.length


class Totals(NamedTuple):
    """Bytes by kind. `dirty` is None where no bitmap is known."""

    size: int
    dirty: int | None
    dirty_zero: int | None
    zero: int
    allocated: int
    extents: int


def join(runs: Iterable[Run]) -> Iterator[Run]:
    """The same runs, neighbours with the same flags made one; empty runs are dropped."""
    length = flags = 0
    for one_length, one_flags in runs:
        if one_flags == flags:
            length += one_length
        elif one_length:
            if length:
                yield length, flags
            length, flags = one_length, one_flags
    if length:
        yield length, flags


def merge(first: Iterable[Run], second: Iterable[Run]) -> Iterator[tuple[int, int, int]]:
    """(length, flags of first, flags of second), cut wherever one of them changes.

    Both must cover the same bytes; raises ValueError if one is shorter.
    """
    left, right = iter(first), iter(second)
    left_length = right_length = 0
    left_flags = right_flags = 0
    while True:
        while not left_length and (run := next(left, None)):
            left_length, left_flags = run
        while not right_length and (run := next(right, None)):
            right_length, right_flags = run
        step = left_length if left_length < right_length else right_length
        if not step:
            break
        yield step, left_flags, right_flags
        left_length -= step
        right_length -= step
    if left_length or right_length:
        raise ValueError(f"maps of different length: {left_length or right_length} bytes are left")


def combine(allocation: Iterable[Run], dirty: Iterable[Run] | None) -> Iterator[Extent]:
    """Extents of a disk from its allocation and, if known, its bitmap; both from offset 0."""
    known_flags = ((n, flags & (STATE_HOLE | STATE_ZERO)) for n, flags in allocation)
    if dirty is None:
        merged: Iterable[tuple[int, int, int]] = ((n, flags, 0) for n, flags in join(known_flags))
    else:
        merged = merge(join(known_flags), join((n, flags & STATE_DIRTY) for n, flags in dirty))
    offset = 0
    known = dirty is not None
    for length, flags, changed in merged:
        yield Extent(
            offset,
            length,
            bool(changed & STATE_DIRTY) if known else None,
            bool(flags & STATE_ZERO),
            not flags & STATE_HOLE,
        )
        offset += length


def only_dirty(extents: Iterable[Extent]) -> Iterator[Extent]:
    """Those extents that were written; all of them where no bitmap is known."""
    return (extent for extent in extents if extent.dirty is not False)


def total(extents: Iterable[Extent]) -> Totals:
    """Bytes by kind, in one pass."""
    size = dirty = dirty_zero = zero = allocated = count = 0
    known = True
    for extent in extents:
        length = extent.length
        size += length
        count += 1
        known = known and extent.dirty is not None
        if extent.dirty:
            dirty += length
            dirty_zero += length if extent.zero else 0
        if extent.zero:
            zero += length
        if extent.allocated:
            allocated += length
    return Totals(
        size,
        dirty if known and count else None,
        dirty_zero if known and count else None,
        zero,
        allocated,
        count,
    )
