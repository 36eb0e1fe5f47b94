"""Runs and extents against a naive oracle that looks at every byte by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vircpt.blocks.extents import (
    KINDS,
    STATE_DIRTY,
    STATE_HOLE,
    STATE_ZERO,
    Extent,
    Runs,
    Totals,
    columns,
    extents,
    join,
    merge,
    total,
)

Pair = tuple[int, int]
Step = tuple[Runs, Runs | None]
RUNS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 7)), max_size=30)


def runs(pairs: Sequence[Pair]) -> Runs:
    """Anew each time: the functions use them up."""
    return Runs([length for length, _ in pairs], [flags for _, flags in pairs])


def per_byte(given_runs: Runs) -> list[int]:
    """The flags of each byte."""
    return [flags for length, flags in zip(*given_runs, strict=True) for _ in range(length)]


def disk(*pairs: tuple[Sequence[Pair], Sequence[Pair] | None]) -> list[Extent]:
    """The extents of a disk of which the server told in as many steps."""
    steps = ((runs(one), None if other is None else runs(other)) for one, other in pairs)
    return list(extents(columns(steps)))


@st.composite
def equal_maps(draw: st.DrawFn) -> tuple[list[Pair], list[Pair]]:
    """Two maps that cover the same bytes, cut at different places."""
    first, second = draw(RUNS), draw(RUNS)
    missing = sum(length for length, _ in first) - sum(length for length, _ in second)
    if missing > 0:
        second.append((missing, draw(st.integers(0, 7))))
    elif missing < 0:
        first.append((-missing, draw(st.integers(0, 7))))
    return first, second


MAPS = st.lists(equal_maps(), max_size=4)


def bytes_of(maps: list[tuple[list[Pair], list[Pair]]], side: int) -> list[int]:
    return list(chain.from_iterable(per_byte(runs(both[side])) for both in maps))


@given(RUNS)
def test_joining_keeps_each_byte(pairs: list[Pair]) -> None:
    assert per_byte(join(runs(pairs))) == per_byte(runs(pairs))


@given(RUNS)
def test_joined_runs_are_as_few_as_can_be(pairs: list[Pair]) -> None:
    joined = join(runs(pairs))
    assert all(length > 0 for length in joined.lengths)
    assert all(one != other for one, other in pairwise(joined.flags))


@given(equal_maps())
def test_merging_keeps_the_flags_of_each_byte(maps: tuple[list[Pair], list[Pair]]) -> None:
    merged = per_byte(merge(runs(maps[0]), runs(maps[1])))
    assert [(KINDS[kind].zero, KINDS[kind].allocated) for kind in merged] == [
        (bool(flags & STATE_ZERO), not flags & STATE_HOLE) for flags in per_byte(runs(maps[0]))
    ]
    assert [KINDS[kind].dirty for kind in merged] == [
        bool(flags & STATE_DIRTY) for flags in per_byte(runs(maps[1]))
    ]


@pytest.mark.parametrize(
    ("first", "second"), [([(1, 0)], []), ([], [(1, 0)]), ([(4, 1)], [(3, 1)])]
)
def test_maps_of_different_length_are_refused(first: list[Pair], second: list[Pair]) -> None:
    with pytest.raises(ValueError, match="different length"):
        merge(runs(first), runs(second))


@given(MAPS)
def test_extents_tell_of_each_byte_what_the_maps_tell(
    maps: list[tuple[list[Pair], list[Pair]]],
) -> None:
    told = [(one.dirty, one.zero, one.allocated) for one in disk(*maps) for _ in range(one.length)]
    assert told == [
        (bool(changed & STATE_DIRTY), bool(state & STATE_ZERO), not state & STATE_HOLE)
        for state, changed in zip(bytes_of(maps, 0), bytes_of(maps, 1), strict=True)
    ]


@given(MAPS)
def test_without_a_bitmap_dirty_is_not_known(maps: list[tuple[list[Pair], list[Pair]]]) -> None:
    found = disk(*((allocation, None) for allocation, _ in maps))
    assert {one.dirty for one in found} <= {None}
    assert [one.zero for one in found for _ in range(one.length)] == [
        bool(flags & STATE_ZERO) for flags in bytes_of(maps, 0)
    ]


@given(MAPS)
def test_extents_are_as_few_as_can_be_and_without_gaps(
    maps: list[tuple[list[Pair], list[Pair]]],
) -> None:
    found = disk(*maps)
    assert all(one.end == other.offset for one, other in pairwise(found))
    assert all(one[2:] != other[2:] for one, other in pairwise(found))
    assert not found or found[0].offset == 0


def test_empty_runs_of_a_server_do_no_harm() -> None:
    found = disk(([(0, 3), (4, 0), (0, 1), (4, 0)], [(2, 1), (0, 0), (6, 1)]))
    assert found == [Extent(0, 8, dirty=True, zero=False, allocated=True)]


def test_the_picture_in_the_documentation() -> None:
    data, hole = 0, STATE_HOLE | STATE_ZERO
    assert disk(([(2, data), (4, hole), (4, data)], [(4, STATE_DIRTY), (6, 0)])) == [
        Extent(0, 2, dirty=True, zero=False, allocated=True),
        Extent(2, 2, dirty=True, zero=True, allocated=False),
        Extent(4, 2, dirty=False, zero=True, allocated=False),
        Extent(6, 4, dirty=False, zero=False, allocated=True),
    ]


def test_an_extent_that_goes_on_in_the_next_step_is_not_cut() -> None:
    step: tuple[list[Pair], list[Pair]] = ([(8, 0)], [(8, 1)])
    assert disk(step, step, step) == [Extent(0, 24, dirty=True, zero=False, allocated=True)]


@given(MAPS, st.booleans())
def test_only_dirty_keeps_what_is_dirty_or_not_known(
    maps: list[tuple[list[Pair], list[Pair]]], known: bool
) -> None:
    def steps() -> Iterator[Step]:
        return ((runs(one), runs(other) if known else None) for one, other in maps)

    dirty = extents(piece.only_dirty() for piece in columns(steps()))
    assert list(dirty) == [one for one in extents(columns(steps())) if one.dirty in (True, None)]


@given(MAPS, st.booleans())
def test_totals_are_the_sums_over_the_bytes(
    maps: list[tuple[list[Pair], list[Pair]]], known: bool
) -> None:
    def steps() -> Iterator[Step]:
        return ((runs(one), runs(other) if known else None) for one, other in maps)

    found = list(extents(columns(steps())))
    every = [one for one in found for _ in range(one.length)]
    told = known and bool(found)
    assert total(columns(steps())) == Totals(
        size=len(every),
        dirty=sum(one.dirty is True for one in every) if told else None,
        dirty_zero=sum(one.dirty is True and one.zero for one in every) if told else None,
        zero=sum(one.zero for one in every),
        allocated=sum(one.allocated for one in every),
        extents=len(found),
    )


def test_a_disk_of_nothing_has_no_extents() -> None:
    assert disk() == []
    assert total([]) == Totals(0, None, None, 0, 0, 0)


def test_a_terabyte_costs_no_more_than_its_runs() -> None:
    found = disk(([(1 << 40, 0)], [(1 << 39, 1), (1 << 39, 0)]))
    assert [one.length for one in found] == [1 << 39, 1 << 39]


def test_steps_are_read_as_they_come() -> None:
    read: list[int] = []

    def steps() -> Iterator[Step]:
        for number in range(1000):
            read.append(number)
            yield runs([(1, 0), (1, 1)]), None

    first = next(extents(columns(steps())))
    assert first.length == 1
    assert len(read) == 1
