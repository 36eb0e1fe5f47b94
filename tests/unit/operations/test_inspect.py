"""The pure parts of listing and deleting: trees of checkpoints, sums of sizes, order of health."""

from __future__ import annotations

from itertools import combinations_with_replacement

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vircpt.operations.inspect import (
    CheckpointStatus,
    DiskStatus,
    Health,
    descendants,
    leaves,
    roots,
)

WORST_FIRST = [Health.INCONSISTENT, Health.MISSING, Health.NO_DISK, Health.UNKNOWN, Health.OK]


def status(
    name: str,
    parent: str | None = None,
    children: tuple[str, ...] = (),
    disks: tuple[DiskStatus, ...] = (),
) -> CheckpointStatus:
    return CheckpointStatus(
        domain="vm1", name=name, description="", parent=parent, children=children, created=0,
        ours=True, disks=disks,
    )  # fmt: skip


def disk(changed: int | None = 0, health: Health = Health.OK) -> DiskStatus:
    return DiskStatus("vda", "x", changed, health)


@st.composite
def forests(draw: st.DrawFn) -> list[CheckpointStatus]:
    """Checkpoints, parents before children."""
    parents: list[int | None] = [
        draw(st.none() | st.integers(0, index - 1)) if index else None
        for index in range(draw(st.integers(0, 12)))
    ]
    return [
        status(
            f"c{index}",
            None if parent is None else f"c{parent}",
            tuple(f"c{child}" for child, above in enumerate(parents) if above == index),
        )
        for index, parent in enumerate(parents)
    ]


def is_below(one: CheckpointStatus, name: str, by_name: dict[str, CheckpointStatus]) -> bool:
    """Walks up, where the code walks down."""
    while one.parent is not None:
        if one.parent == name:
            return True
        one = by_name[one.parent]
    return False


@given(forests(), st.data())
def test_descendants_are_all_below_and_in_order(
    forest: list[CheckpointStatus], data: st.DataObject
) -> None:
    by_name = {one.name: one for one in forest}
    name = data.draw(st.sampled_from([*by_name, "nosuch"]))
    assert descendants(forest, name) == [one for one in forest if is_below(one, name, by_name)]


@given(forests())
def test_each_tree_has_one_root_and_a_leaf(forest: list[CheckpointStatus]) -> None:
    below = [one.name for root in roots(forest) for one in descendants(forest, root.name)]
    assert sorted(below + [one.name for one in roots(forest)]) == sorted(one.name for one in forest)
    assert all(not descendants(forest, leaf.name) for leaf in leaves(forest))
    assert bool(leaves(forest)) == bool(forest)


def test_a_branch_does_not_hold_its_sibling() -> None:
    forest = [
        status("a", None, ("b", "c")),
        status("b", "a", ("d",)),
        status("c", "a"),
        status("d", "b"),
    ]
    assert [one.name for one in descendants(forest, "b")] == ["d"]
    assert [one.name for one in roots(forest)] == ["a"]
    assert [one.name for one in leaves(forest)] == ["c", "d"]


@pytest.mark.parametrize(("one", "other"), list(combinations_with_replacement(WORST_FIRST, 2)))
def test_health_is_that_of_the_worst_disk(one: Health, other: Health) -> None:
    assert status("a", disks=(disk(health=one), disk(health=other))).health is one
    assert status("a", disks=(disk(health=other), disk(health=one))).health is one


def test_without_disks_all_is_well_and_nothing_is_known() -> None:
    assert status("a").health is Health.OK
    assert status("a").changed is None


@given(st.lists(st.integers(0, 1 << 60), min_size=1))
def test_what_changed_is_the_sum_over_the_disks(sizes: list[int]) -> None:
    disks = tuple(disk(size) for size in sizes)
    assert status("a", disks=disks).changed == sum(sizes)
    assert status("a", disks=(*disks, disk(None))).changed is None


def test_nothing_changed_is_known() -> None:
    assert status("a", disks=(disk(0),)).changed == 0
