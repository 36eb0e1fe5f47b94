"""What lies on the disks of an export: partitions, volumes, file systems, changed bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vircpt.confined.messages import Found, LookAtLayout, Oddity, Spent
from vircpt.operations.looking import Confinement, Look
from vircpt.operations.reading import ExportedDisk


@dataclass(frozen=True)
class DiskLayout:
    """All areas, parents before children; `oddities` say what is damaged or missing."""

    areas: tuple[Found, ...]
    oddities: tuple[str, ...]
    spent: Spent | None


def read(disks: Sequence[ExportedDisk], confinement: Confinement) -> DiskLayout:
    """Look at all disks together: a volume group may lie on several."""
    areas: list[Found] = []
    oddities: list[str] = []
    with Look(LookAtLayout(), disks, confinement, dirty=True) as look:
        for answer in look.answers():
            if isinstance(answer, Found):
                areas.append(answer)
            elif isinstance(answer, Oddity):
                oddities.append(answer.text)
    known = any(disk.bitmap for disk in disks)
    return DiskLayout(tuple(areas if known else map(_unknown, areas)), tuple(oddities), look.spent)


def _unknown(one: Found) -> Found:
    """Without a checkpoint nothing is known to have changed."""
    return Found(one.area, None, one.facts, one.problem)
