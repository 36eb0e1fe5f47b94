"""What the dirty blocks say of one entry: added, modified, metadata; certain or possible. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from vircpt.guestfiles.entries import Entry, Trait
from vircpt.guestfiles.filesystem import Facts
from vircpt.guestfiles.intervals import Intervals


class How(StrEnum):
    """How an entry changed."""

    ADDED = "added"
    MODIFIED = "modified"
    """Contents; of a directory, its names."""
    METADATA = "metadata"
    """Owner, mode, times, links, attributes, or nothing but the time of the last access."""
    DELETED = "deleted"
    RENAMED = "renamed"


class Evidence(StrEnum):
    """What makes a change certain, or what else is known of it."""

    BLOCKS = "blocks"
    """A dirty cluster holds nothing but data of this file."""
    TIMES = "times"
    """Its times, in blocks that are dirty, lie between checkpoint and now."""
    ACCESS = "access"
    """Only the time of last access is new: it was read."""
    INDEX = "index"
    """The index of an earlier walk differs."""
    NONE = "none"
    """It shares a dirty cluster with something; perhaps that is all."""


@dataclass(frozen=True)
class Window:
    """From when to when, nanoseconds since 1970 by the guest's clock.

    `since` is when the checkpoint was made, `until` when the export was. `margin` is how far
    the guest's clock may be off. A time is taken as new only if it is later than `since` and
    not later than `until`, by more than the margin: a clock that was wrong proves nothing.
    """

    since: int
    until: int
    margin: int = 2_000_000_000

    def holds(self, time: int | None, coarse: int = 0) -> bool:
        """Whether the time is surely in the window; `coarse` is Facts.time_margin."""
        slack = self.margin + coarse
        return time is not None and self.since + slack < time <= self.until + slack


@dataclass(frozen=True)
class Change:
    """One entry that was touched. `data_bytes` and `metadata_bytes` are dirty bytes of it: an
    upper bound of what was written, because dirty clusters are larger than blocks."""

    entry: Entry
    how: How
    certain: bool
    evidence: Evidence
    data_bytes: int
    metadata_bytes: int


@dataclass(frozen=True)
class Rules:
    """What `classify` needs to know besides the entry.

    `granularity` is that of the dirty bitmap in bytes; `linear` says that the volume lies on
    its disks in long pieces (Volume.linear): else blocks prove nothing about one file.
    """

    facts: Facts
    window: Window | None
    granularity: int = 65536
    linear: bool = True


def classify(entry: Entry, touched: Intervals, rules: Rules) -> Change | None:
    """The change of an entry, None if nothing of it lies in `touched` (bytes of the volume).

    Times make a change certain; they never make an entry untouched. `certain` says that the
    entry has changed; `how` is the gravest way that can't be excluded: a file whose owner
    changed, and whose contents share a dirty cluster, is MODIFIED, because a program can set
    the time of the last modification, but not ctime.
    """
    data = touched.overlap(entry.data)
    metadata = touched.overlap(entry.metadata)
    if not data and not metadata and not entry.traits & Trait.DAMAGED:
        return None
    how, certain, evidence = _judge(entry, touched, rules, data, metadata)
    return Change(entry, how, certain, evidence, data, metadata)


def _judge(
    entry: Entry, touched: Intervals, rules: Rules, data: int, metadata: int
) -> tuple[How, bool, Evidence]:
    birth, mtime, ctime, atime = _new_times(entry, rules) if metadata else (False,) * 4
    if birth and ctime:
        return How.ADDED, True, Evidence.TIMES
    if data and _alone(entry, touched, rules):
        return How.MODIFIED, True, Evidence.BLOCKS
    if mtime and ctime:
        return How.MODIFIED, True, Evidence.TIMES
    if data or entry.traits & (Trait.INLINE | Trait.DAMAGED):
        return How.MODIFIED, ctime, Evidence.TIMES if ctime else Evidence.NONE
    if ctime:
        return How.METADATA, True, Evidence.TIMES
    return How.METADATA, False, Evidence.ACCESS if atime else Evidence.NONE


def _new_times(entry: Entry, rules: Rules) -> tuple[bool, bool, bool, bool]:
    """Which are surely in the window: birth, mtime, ctime, atime."""
    window, coarse = rules.window, rules.facts.time_margin
    if window is None:
        return False, False, False, False
    birth, mtime, ctime, atime = (
        window.holds(time, coarse) for time in (entry.birth, entry.mtime, entry.ctime, entry.atime)
    )
    if entry.ctime is None:
        ctime = birth or mtime
    return birth, mtime, ctime, atime


_SHARES = Trait.UNWRITTEN | Trait.SHARED | Trait.DAMAGED


def _alone(entry: Entry, touched: Intervals, rules: Rules) -> bool:
    """Whether a whole dirty cluster of the disk lies inside the data of this entry.

    Where clusters begin in the volume is not asked: a dirty interval of at least one cluster
    that lies inside of a run, or a dirty part of a run that is nearly two clusters long, holds
    a whole one wherever they begin.
    """
    if rules.facts.moves_data or not rules.linear or entry.traits & _SHARES:
        return False
    size = rules.granularity
    for offset, length in Intervals(entry.data):
        for part in touched.within(offset, length):
            whole = touched.around(part.offset) == part
            if part.length >= (size if whole else 2 * size - 1):
                return True
    return False
