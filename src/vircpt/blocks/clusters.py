"""Which clusters of a disk go into an image of a repository. Pure: from extents to runs.

    dirty      |----dirty----|------clean------|
    zero       |----|-------zero-------|-------|
    clusters   |data|---zero--|  mixed  |       |

A cluster of which any part was written is stored whole. It is `zero`, and costs no data, if
all of it reads as zeroes, what was not written too.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator

from vircpt.blocks.extents import KINDS, Columns
from vircpt.blocks.qcow2 import CLUSTER


class ClusterRuns:
    """Runs of clusters, in order: (offset, length, is zero), in bytes. Small, for millions."""

    def __init__(self) -> None:
        self._offsets = array("Q")
        self._lengths = array("Q")
        self._zero = bytearray()

    def __iter__(self) -> Iterator[tuple[int, int, bool]]:
        for offset, length, zero in zip(self._offsets, self._lengths, self._zero, strict=True):
            yield offset, length, bool(zero)

    def __len__(self) -> int:
        return len(self._zero)

    def bytes_of(self, *, zero: bool) -> int:
        """Bytes that are zero, or that are data."""
        return sum(
            length for length, one in zip(self._lengths, self._zero, strict=True) if one == zero
        )

    def add(self, offset: int, end: int, zero: bool) -> None:
        """Append a run that begins where the last one ended, or later."""
        if (
            self._zero
            and self._zero[-1] == zero
            and self._offsets[-1] + self._lengths[-1] == offset
        ):
            self._lengths[-1] += end - offset
            return
        self._offsets.append(offset)
        self._lengths.append(end - offset)
        self._zero.append(zero)


_WANTED = tuple(kind.dirty is not False for kind in KINDS)
_ZERO = tuple(kind.zero for kind in KINDS)


def runs(found: Iterable[Columns]) -> ClusterRuns:
    """The clusters to be stored: of a disk with a bitmap what was written, else everything.

    `found` covers the whole disk. The last run ends with the disk, and with its last cluster
    only if the disk does.
    """
    result = ClusterRuns()
    start = -1  # of a cluster that is known in part only; -1 if there is none
    wanted = zero = False
    end = 0
    for piece in found:
        for offset, length, kind in zip(*piece, strict=True):
            end = offset + length
            begin = offset
            if start >= 0:
                wanted, zero = wanted or _WANTED[kind], zero and _ZERO[kind]
                begin = start + CLUSTER
                if end < begin:
                    continue
                if wanted:
                    result.add(start, begin, zero)
                start = -1
            whole = end & -CLUSTER
            if whole > begin and _WANTED[kind]:
                result.add(begin, whole, _ZERO[kind])
            if whole < end:
                start, wanted, zero = whole, _WANTED[kind], _ZERO[kind]
    if start >= 0 and wanted:
        result.add(start, end, zero)
    return result
