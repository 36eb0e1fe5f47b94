"""Extents: pure functions on runs of blocks.

NBD answers "block status" per meta context, as runs of (length, flags) that may be cut at
different places in each context. Here they become one list of extents, cut wherever one
of the contexts changes:

    base:allocation   |--data--|------hole+zero------|---data---|
    dirty-bitmap      |---------dirty---------|------clean------|
    merged            |-dirty--|-dirty,zero---|-zero-|--data----|

A disk may have millions of extents, and an object for each is slow to make: they travel by
column (`Columns`), and become `Extent` only for who wants to look at them one by one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import accumulate, compress, groupby, islice
from operator import eq
from typing import NamedTuple

STATE_HOLE = 1
"""NBD: no space is allocated for these blocks (base:allocation, bit 0)."""
STATE_ZERO = 2
"""NBD: these blocks read as zeroes (base:allocation, bit 1)."""
STATE_DIRTY = 1
"""QEMU: these blocks were written (qemu:dirty-bitmap:*, bit 0)."""


class Runs(NamedTuple):
    """Runs of blocks, by column: lengths in bytes, and the flags of one meta context."""

    lengths: list[int]
    flags: list[int]


class Kind(NamedTuple):
    """What is known of a block. `dirty` is None where no bitmap is known."""

    dirty: bool | None
    zero: bool
    allocated: bool


KINDS = tuple(
    Kind(dirty, bool(flags & STATE_ZERO), not flags & STATE_HOLE)
    for dirty in (False, True, None)
    for flags in range(4)
)
"""All kinds: 4 x (0 clean, 1 dirty, 2 not known) + the flags of base:allocation."""
_UNKNOWN = 4 * 2


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


class Columns(NamedTuple):
    """Extents in order, by column: offsets and lengths in bytes, and indexes of `KINDS`."""

    offsets: list[int]
    lengths: list[int]
    kinds: list[int]

    def only_dirty(self) -> Columns:
        """Those that were written; all of them where no bitmap is known."""
        wanted = [KINDS[kind].dirty is not False for kind in range(len(KINDS))]
        chosen = [wanted[kind] for kind in self.kinds]
        return Columns(*(list(compress(column, chosen)) for column in self))


class Totals(NamedTuple):
    """Bytes by kind. `dirty` is None where no bitmap is known."""

    size: int
    dirty: int | None
    dirty_zero: int | None
    zero: int
    allocated: int
    extents: int


def join(runs: Runs) -> Runs:
    """The same runs, neighbours with the same flags made one; empty runs are dropped."""
    lengths, flags = runs
    if 0 not in lengths and not any(map(eq, flags, islice(flags, 1, None))):
        return runs
    joined = Runs([], [])
    solid = ((one, length) for length, one in zip(lengths, flags, strict=True) if length)
    for one, alike in groupby(solid, key=lambda run: run[0]):
        joined.flags.append(one)
        joined.lengths.append(sum(length for _, length in alike))
    return joined


def merge(allocation: Runs, dirty: Runs | None) -> Runs:
    """Runs whose flags are indexes of `KINDS`, cut wherever one of both is.

    Both must cover the same bytes; raises ValueError if one is shorter.
    """
    if dirty is None:
        return Runs(allocation.lengths, [flags & 3 | _UNKNOWN for flags in allocation.flags])
    if sum(allocation.lengths) != sum(dirty.lengths):
        raise ValueError("maps of different length")
    if len(allocation.lengths) == 1:
        same = allocation.flags[0] & 3
        return Runs(dirty.lengths, [same | (flags & STATE_DIRTY) * 4 for flags in dirty.flags])
    return _merge(allocation, dirty)


def _merge(allocation: Runs, dirty: Runs) -> Runs:
    lengths: list[int] = []
    kinds: list[int] = []
    runs = zip(*dirty, strict=True)
    right = changed = 0
    for left, flags in zip(*allocation, strict=True):
        state = flags & 3
        while left > right:
            if right:
                lengths.append(right)
                kinds.append(state | changed)
                left -= right  # noqa: PLW2901
            right, changed = next(runs)
            changed = (changed & STATE_DIRTY) * 4
        lengths.append(left)
        kinds.append(state | changed)
        right -= left
    return Runs(lengths, kinds)


def columns(steps: Iterable[tuple[Runs, Runs | None]]) -> Iterator[Columns]:
    """The extents of a disk from its allocation and, if known, its bitmap.

    They come piece by piece, as `steps` do, whose lists are used up; the pieces follow each
    other from offset 0, and an extent that goes on in the next step is not cut.
    """
    offset = held_length = held_kind = 0
    for allocation, dirty in steps:
        lengths, kinds = join(merge(allocation, dirty))
        if not lengths:
            continue
        if held_length and kinds[0] == held_kind:
            lengths[0] += held_length
        elif held_length:
            lengths.insert(0, held_length)
            kinds.insert(0, held_kind)
        held_length, held_kind = lengths.pop(), kinds.pop()
        offsets = list(accumulate(lengths, initial=offset))
        offset = offsets.pop()
        if lengths:
            yield Columns(offsets, lengths, kinds)
    if held_length:
        yield Columns([offset], [held_length], [held_kind])


def extents(found: Iterable[Columns]) -> Iterator[Extent]:
    """One by one."""
    for piece in found:
        for offset, length, kind in zip(*piece, strict=True):
            yield Extent(offset, length, *KINDS[kind])


def total(found: Iterable[Columns]) -> Totals:
    """Bytes by kind, in one pass."""
    count = 0
    alike: Counter[tuple[int, int]] = Counter()
    for piece in found:
        count += len(piece.lengths)
        alike.update(zip(piece.lengths, piece.kinds, strict=True))
    by_kind = [(KINDS[kind], length * times) for (length, kind), times in alike.items()]
    known = count > 0 and all(kind.dirty is not None for kind, _ in by_kind)
    dirty = sum(size for kind, size in by_kind if kind.dirty)
    dirty_zero = sum(size for kind, size in by_kind if kind.dirty and kind.zero)
    return Totals(
        size=sum(size for _, size in by_kind),
        dirty=dirty if known else None,
        dirty_zero=dirty_zero if known else None,
        zero=sum(size for kind, size in by_kind if kind.zero),
        allocated=sum(size for kind, size in by_kind if kind.allocated),
        extents=count,
    )
