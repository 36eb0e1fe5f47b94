"""What classify says: nothing touched is missing, and certain is what is proven."""

from __future__ import annotations

import pytest

from vircpt.guestfiles.changes import Evidence, How, Rules, Window, classify
from vircpt.guestfiles.entries import Entry, Kind, Trait
from vircpt.guestfiles.filesystem import SECOND, Facts
from vircpt.guestfiles.intervals import Intervals, Run

FACTS = Facts("ext4", "", "", 1 << 30, None, 4096, time_margin=0)
OLD, SINCE, NEW, UNTIL = (second * SECOND for second in (100, 200, 250, 300))
RULES = Rules(FACTS, Window(SINCE, UNTIL, margin=SECOND))
INODE = Run(0, 256)
DATA = Run(1 << 20, 1 << 20)
CLUSTER = 65536


def entry(**facts: object) -> Entry:
    times = {"mtime": OLD, "ctime": OLD, "atime": OLD, "birth": OLD}
    return Entry(
        **{

                "path": b"a", "kind": Kind.FILE, "inode": 12, "generation": 1, "size": 1 << 20,
                "mode": 0o100644, "uid": 0, "gid": 0, "nlink": 1, "data": (DATA,),
                "metadata": (INODE,)
            ,
            **times,
            **facts,
        }  # type: ignore[arg-type]
    )  # fmt: skip


def judged(
    one: Entry, dirty: list[tuple[int, int]], rules: Rules = RULES
) -> tuple[How, bool, Evidence] | None:
    change = classify(one, Intervals(dirty), rules)
    return (change.how, change.certain, change.evidence) if change else None


INODE_DIRTY = [(0, CLUSTER)]
SHARED = [(DATA.offset - CLUSTER // 2, CLUSTER)]
ALONE = [(DATA.offset + CLUSTER, CLUSTER)]


def test_what_is_not_touched_is_no_change() -> None:
    assert judged(entry(mtime=NEW, ctime=NEW), [(1 << 29, CLUSTER)]) is None


def test_new_times_make_it_certain() -> None:
    new = {"mtime": NEW, "ctime": NEW}
    assert judged(entry(**new, birth=NEW), INODE_DIRTY) == (How.ADDED, True, Evidence.TIMES)
    assert judged(entry(**new), INODE_DIRTY) == (How.MODIFIED, True, Evidence.TIMES)
    assert judged(entry(ctime=NEW), INODE_DIRTY) == (How.METADATA, True, Evidence.TIMES)


def test_a_forged_time_of_modification_hides_nothing() -> None:
    forged = entry(ctime=NEW)
    assert judged(forged, INODE_DIRTY + SHARED) == (How.MODIFIED, True, Evidence.TIMES)
    assert judged(entry(), INODE_DIRTY + ALONE) == (How.MODIFIED, True, Evidence.BLOCKS)
    assert judged(entry(), SHARED) == (How.MODIFIED, False, Evidence.NONE)


def test_neighbours_are_possible_only() -> None:
    assert judged(entry(), INODE_DIRTY) == (How.METADATA, False, Evidence.NONE)
    assert judged(entry(traits=Trait.INLINE, data=()), INODE_DIRTY) == (
        How.MODIFIED,
        False,
        Evidence.NONE,
    )


def test_to_be_read_is_no_certain_change() -> None:
    assert judged(entry(atime=NEW), INODE_DIRTY) == (How.METADATA, False, Evidence.ACCESS)


@pytest.mark.parametrize("time", [UNTIL + 2 * SECOND, SINCE, SINCE + SECOND])
def test_times_outside_of_the_window_prove_nothing(time: int) -> None:
    """A clock that was ahead when the file was written, before the checkpoint."""
    assert judged(entry(mtime=time, ctime=time, birth=time), INODE_DIRTY) == (
        How.METADATA,
        False,
        Evidence.NONE,
    )


def test_times_of_an_inode_that_was_not_written_prove_nothing() -> None:
    new = entry(mtime=NEW, ctime=NEW, birth=NEW)
    assert judged(new, SHARED) == (How.MODIFIED, False, Evidence.NONE)


@pytest.mark.parametrize(
    ("rules", "traits"),
    [
        (Rules(Facts("btrfs", "", "", 1, None, 1, moves_data=True), RULES.window), Trait.NONE),
        (Rules(FACTS, RULES.window, linear=False), Trait.NONE),
        (RULES, Trait.UNWRITTEN),
        (RULES, Trait.SHARED),
    ],
)
def test_where_blocks_prove_nothing(rules: Rules, traits: Trait) -> None:
    assert judged(entry(traits=traits), ALONE, rules) == (How.MODIFIED, False, Evidence.NONE)


def test_half_a_cluster_at_the_border_proves_nothing() -> None:
    """A dirty interval cut short by the end of the volume may have been written beyond it."""
    one = entry(data=(Run(0, 1 << 20),), metadata=(Run(1 << 22, 256),))
    assert judged(one, [(0, CLUSTER // 2)]) == (How.MODIFIED, False, Evidence.NONE)


def test_nearly_two_clusters_hold_a_whole_one() -> None:
    """Wherever clusters begin on the disk."""
    start = DATA.end - 2 * CLUSTER + 1
    assert judged(entry(), [(start, 4 * CLUSTER)]) == (How.MODIFIED, True, Evidence.BLOCKS)
    assert judged(entry(), [(start + 1, 4 * CLUSTER)]) == (How.MODIFIED, False, Evidence.NONE)


def test_damaged_entries_are_never_missing() -> None:
    assert judged(entry(traits=Trait.DAMAGED), []) == (How.MODIFIED, False, Evidence.NONE)


def test_bytes_are_counted() -> None:
    change = classify(entry(), Intervals([*INODE_DIRTY, *ALONE]), RULES)
    assert change is not None
    assert (change.data_bytes, change.metadata_bytes) == (CLUSTER, 256)
