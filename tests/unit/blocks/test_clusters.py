"""Clusters of a disk, against a slow model that looks at each one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vircpt.blocks.clusters import ClusterRuns, runs
from vircpt.blocks.extents import KINDS, Columns
from vircpt.blocks.qcow2 import CLUSTER

LENGTHS = st.one_of(
    st.integers(1, 8).map(lambda count: count * CLUSTER), st.integers(1, 400).map(lambda n: n * 512)
)
EXTENTS = st.lists(st.tuples(LENGTHS, st.sampled_from(range(len(KINDS)))), min_size=1, max_size=30)


def columns(extents: list[tuple[int, int]]) -> Columns:
    found = Columns([], [], [])
    offset = 0
    for length, kind in extents:
        found.offsets.append(offset)
        found.lengths.append(length)
        found.kinds.append(kind)
        offset += length
    return found


def model(extents: list[tuple[int, int]]) -> dict[int, bool]:
    """By cluster, whether it is zero; those that are to be stored."""
    wanted: dict[int, bool] = {}
    zero: dict[int, bool] = {}
    offset = 0
    for length, kind in extents:
        for cluster in range(offset // CLUSTER, -(-(offset + length) // CLUSTER)):
            wanted[cluster] = wanted.get(cluster, False) or KINDS[kind].dirty is not False
            zero[cluster] = zero.get(cluster, True) and KINDS[kind].zero
        offset += length
    return {cluster: zero[cluster] for cluster, one in wanted.items() if one}


@given(EXTENTS, st.integers(1, 5))
def test_runs_are_the_clusters_that_hold_what_was_written(
    extents: list[tuple[int, int]], pieces: int
) -> None:
    whole = columns(extents)
    size = sum(length for length, _ in extents)
    cut = [Columns(*(column[at : at + pieces] for column in whole))
           for at in range(0, len(extents), pieces)]  # fmt: skip
    found = runs(cut)
    seen: dict[int, bool] = {}
    end = 0
    for offset, length, zero in found:
        assert offset % CLUSTER == 0
        assert offset >= end
        end = offset + length
        assert end % CLUSTER == 0 or end == size
        for cluster in range(offset // CLUSTER, -(-end // CLUSTER)):
            seen[cluster] = zero
    assert seen == model(extents)
    assert end <= size


def test_neighbours_become_one_run() -> None:
    found = ClusterRuns()
    found.add(0, CLUSTER, False)
    found.add(CLUSTER, 3 * CLUSTER, False)
    found.add(3 * CLUSTER, 4 * CLUSTER, True)
    assert list(found) == [(0, 3 * CLUSTER, False), (3 * CLUSTER, CLUSTER, True)]
    assert len(found) == 2
    assert found.bytes_of(zero=False) == 3 * CLUSTER
    assert found.bytes_of(zero=True) == CLUSTER
