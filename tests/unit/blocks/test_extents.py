"""Runs and extents against a naive oracle that looks at every byte by itself."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vircpt.blocks.extents import (
    STATE_DIRTY,
    STATE_HOLE,
    STATE_ZERO,
    Extent,
    Run,
    Totals,
    combine,
    join,
    merge,
    only_dirty,
    total,
)

RUNS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), max_size=30)
SOLID_RUNS = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3)), max_size=30)


def per_byte(runs: list[Run]) -> list[int]:
    """The flags of each byte."""
    return [flags for length, flags in runs for _ in range(length)]


@st.composite
def equal_maps(draw: st.DrawFn) -> tuple[list[Run], list[Run]]:
    """Two maps that cover the same bytes, cut at different places."""
    first, second = draw(SOLID_RUNS), draw(SOLID_RUNS)
    missing = sum(length for length, _ in first) - sum(length for length, _ in second)
    if missing > 0:
        second.append((missing, draw(st.integers(0, 3))))
    elif missing < 0:
        first.append((-missing, draw(st.integers(0, 3))))
    return first, second


@st.composite
def extents(draw: st.DrawFn) -> list[Extent]:
    """The extents of a disk, with a bitmap or without."""
    allocation, dirty = draw(equal_maps())
    return list(combine(allocation, dirty if draw(st.booleans()) else None))


@given(RUNS)
def test_joining_keeps_each_byte(runs: list[Run]) -> None:
    assert per_byte(list(join(runs))) == per_byte(runs)


@given(RUNS)
def test_joined_runs_are_as_few_as_can_be(runs: list[Run]) -> None:
    joined = list(join(runs))
    assert all(length > 0 for length, _ in joined)
    assert all(one[1] != other[1] for one, other in pairwise(joined))


@given(RUNS)
def test_joining_twice_changes_nothing(runs: list[Run]) -> None:
    assert list(join(join(runs))) == list(join(runs))


@given(equal_maps())
def test_merging_keeps_the_flags_of_each_byte(maps: tuple[list[Run], list[Run]]) -> None:
    first, second = maps
    merged = list(merge(first, second))
    assert per_byte([(length, flags) for length, flags, _ in merged]) == per_byte(first)
    assert per_byte([(length, flags) for length, _, flags in merged]) == per_byte(second)


@given(equal_maps())
def test_merged_runs_of_joined_maps_are_cut_only_where_one_changes(
    maps: tuple[list[Run], list[Run]],
) -> None:
    merged = list(merge(join(maps[0]), join(maps[1])))
    assert all(one[0] > 0 for one in merged)
    assert all(one[1:] != other[1:] for one, other in pairwise(merged))


@given(SOLID_RUNS, SOLID_RUNS)
def test_maps_of_different_length_are_refused(first: list[Run], second: list[Run]) -> None:
    lengths = {sum(length for length, _ in runs) for runs in (first, second)}
    if len(lengths) == 1:
        list(merge(first, second))
        return
    with pytest.raises(ValueError, match="different length"):
        list(merge(first, second))


@pytest.mark.parametrize(
    ("first", "second"), [([(1, 0)], []), ([], [(1, 0)]), ([(4, 1)], [(3, 1)])]
)
def test_a_missing_end_is_noticed(first: list[Run], second: list[Run]) -> None:
    with pytest.raises(ValueError, match="different length"):
        list(combine(first, second))


@given(equal_maps())
def test_extents_tell_of_each_byte_what_the_maps_tell(maps: tuple[list[Run], list[Run]]) -> None:
    allocation, dirty = maps
    told = [
        (one.dirty, one.zero, one.allocated)
        for one in combine(allocation, dirty)
        for _ in range(one.length)
    ]
    assert told == [
        (bool(changed & STATE_DIRTY), bool(state & STATE_ZERO), not state & STATE_HOLE)
        for state, changed in zip(per_byte(allocation), per_byte(dirty), strict=True)
    ]


@given(RUNS)
def test_without_a_bitmap_dirty_is_not_known(allocation: list[Run]) -> None:
    found = list(combine(allocation, None))
    assert {one.dirty for one in found} <= {None}
    assert [one.zero for one in found for _ in range(one.length)] == [
        bool(flags & STATE_ZERO) for flags in per_byte(allocation)
    ]


@given(extents())
def test_extents_follow_each_other_without_gaps(found: list[Extent]) -> None:
    assert all(one.end == other.offset for one, other in pairwise(found))
    assert not found or found[0].offset == 0


def test_empty_runs_of_a_server_do_no_harm() -> None:
    found = list(combine([(0, 3), (4, 0), (0, 1), (4, 0)], [(2, 1), (0, 0), (6, 1)]))
    assert found == [Extent(0, 8, dirty=True, zero=False, allocated=True)]


def test_the_picture_in_the_documentation() -> None:
    data, hole = 0, STATE_HOLE | STATE_ZERO
    assert list(combine([(2, data), (4, hole), (4, data)], [(4, STATE_DIRTY), (6, 0)])) == [
        Extent(0, 2, dirty=True, zero=False, allocated=True),
        Extent(2, 2, dirty=True, zero=True, allocated=False),
        Extent(4, 2, dirty=False, zero=True, allocated=False),
        Extent(6, 4, dirty=False, zero=False, allocated=True),
    ]


@given(extents())
def test_only_dirty_keeps_what_is_dirty_or_not_known(found: list[Extent]) -> None:
    assert list(only_dirty(found)) == [one for one in found if one.dirty in (True, None)]


@given(extents())
def test_totals_are_the_sums_over_the_bytes(found: list[Extent]) -> None:
    every = [one for one in found for _ in range(one.length)]
    known = bool(found) and all(one.dirty is not None for one in found)
    assert total(found) == Totals(
        size=len(every),
        dirty=sum(one.dirty is True for one in every) if known else None,
        dirty_zero=sum(one.dirty is True and one.zero for one in every) if known else None,
        zero=sum(one.zero for one in every),
        allocated=sum(one.allocated for one in every),
        extents=len(found),
    )


def test_a_disk_of_nothing_has_no_extents() -> None:
    assert list(combine([], [])) == []
    assert total([]) == Totals(0, None, None, 0, 0, 0)


def test_a_terabyte_costs_no_more_than_its_runs() -> None:
    found = list(combine([(1 << 40, 0)], [(1 << 39, 1), (1 << 39, 0)]))
    assert [one.length for one in found] == [1 << 39, 1 << 39]


def test_runs_are_read_as_they_come() -> None:
    read: list[int] = []

    def source() -> Iterator[Run]:
        for length in range(1, 1000):
            read.append(length)
            yield length, length % 2

    first = next(combine(source(), None))
    assert first.length == 1
    assert len(read) == 2
