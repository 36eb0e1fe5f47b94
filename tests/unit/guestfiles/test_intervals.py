"""Intervals against sets of bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vircpt.guestfiles.intervals import Intervals

RUNS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 12)), max_size=12)
Pairs = list[tuple[int, int]]


def members(runs: Pairs) -> set[int]:
    return {byte for offset, length in runs for byte in range(offset, offset + length)}


@given(RUNS)
def test_they_are_sorted_and_apart(runs: Pairs) -> None:
    found = Intervals(runs)
    assert members(list(found)) == members(runs)
    assert found.total == len(members(runs))
    edges = [edge for run in found for edge in (run.offset, run.end)]
    assert edges == sorted(set(edges))


@given(RUNS, RUNS)
def test_overlaps(runs: Pairs, others: Pairs) -> None:
    found = Intervals(runs)
    both = members(runs) & members(others)
    assert found.overlap(others) == len(both)
    assert found.touches_any(others) == bool(both)
    assert members(list(found.without(Intervals(others)))) == members(runs) - members(others)
    assert members(list(found.union(others))) == members(runs) | members(others)


@given(RUNS, st.integers(0, 70), st.integers(0, 30))
def test_parts(runs: Pairs, offset: int, length: int) -> None:
    found = Intervals(runs)
    inside = members(runs) & set(range(offset, offset + length))
    assert members(list(found.within(offset, length))) == inside
    assert found.touches(offset, length) == bool(inside)
    assert members(list(found.cut(offset, length, to=5))) == {one - offset + 5 for one in inside}
    around = found.around(offset)
    assert (around is not None) == (offset in members(runs))
    if around:
        assert set(range(around.offset, around.end)) <= members(runs)
        assert not {around.offset - 1, around.end} & members(runs)
